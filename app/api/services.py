"""What endpoints work with, and the dependencies that hand it to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

import anyio
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from app.database import Database, open_or_warn
from app.metrics import LastMinute
from app.pool import Deadline
from app.settings import ApiSettings, Live

READY_THREADS = 4
STREAM_THREADS = 4


@dataclass(slots=True)
class Services:
    """One per application, made by `create_app`; the limiters need no running loop."""

    live: Live[ApiSettings]
    database: Database
    registry: CollectorRegistry
    opening: Callable[[Database], None] = open_or_warn
    # Set when this process makes way for a new one: streams end, their clients come back.
    ending: bool = False
    streams_open: int = 0
    last_minute: LastMinute = field(default_factory=LastMinute)
    # Their own few threads: 40 requests stuck on the database must not silence readiness,
    # and 50 event streams must not take threads from requests.
    ready_limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(READY_THREADS)
    )
    stream_limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(STREAM_THREADS)
    )

    @property
    def settings(self) -> ApiSettings:
        """Return the settings in force now."""
        return self.live.current


async def get_services(request: Request) -> Services:
    """Return the application's services."""
    return cast(Services, request.app.state.services)


async def get_deadline(request: Request) -> Deadline:
    """Return the moment by which this request must be answered."""
    return cast(Deadline, request.state.deadline)


ServicesDep = Annotated[Services, Depends(get_services)]
DeadlineDep = Annotated[Deadline, Depends(get_deadline)]
