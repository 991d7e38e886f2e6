"""What endpoints work with, and the dependencies that hand it to them."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, cast

import anyio
from fastapi import Depends, HTTPException, Request
from prometheus_client import CollectorRegistry

from app.database import Database
from app.pool import Deadline
from app.settings import ApiSettings

READY_THREADS = 4
STREAM_THREADS = 4


@dataclass(slots=True)
class Services:
    """One per application, made by `create_app`; the limiters need no running loop."""

    settings: ApiSettings
    database: Database
    registry: CollectorRegistry
    streams_open: int = 0
    # Their own few threads: 40 requests stuck on the database must not silence readiness,
    # and 50 event streams must not take threads from requests.
    ready_limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(READY_THREADS)
    )
    stream_limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(STREAM_THREADS)
    )


async def get_services(request: Request) -> Services:
    """Return the application's services."""
    return cast(Services, request.app.state.services)


async def get_deadline(request: Request) -> Deadline:
    """Return the moment by which this request must be answered."""
    return cast(Deadline, request.state.deadline)


async def require_json(request: Request) -> None:
    """Refuse a body that does not say it is JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"
        )


ServicesDep = Annotated[Services, Depends(get_services)]
DeadlineDep = Annotated[Deadline, Depends(get_deadline)]
