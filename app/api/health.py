"""Liveness, readiness and metrics; none of them waits for the requests' thread pool."""

from dataclasses import asdict

import anyio
from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api.errors import unavailable_response
from app.api.models import ErrorBody
from app.api.services import Services, ServicesDep
from app.database import ping
from app.pool import DatabaseUnavailable, Deadline

READY_SECONDS = 1.0
# A little less, so that the pool says what is wrong before the second is over.
PROBE_SECONDS = 0.9
router = APIRouter(tags=["operation"])


@router.get("/health/live", summary="The process is up")
async def live() -> JSONResponse:
    """Answer at once; touches no database and no thread."""
    return JSONResponse({"status": "live"})


@router.get(
    "/health/ready",
    responses={503: {"model": ErrorBody}},
    summary="The pooled path answers within a second",
)
async def ready(services: ServicesDep) -> JSONResponse:
    """Run a query through the pool, or say why that failed."""
    with anyio.move_on_after(READY_SECONDS):
        return await to_thread.run_sync(
            _probe, services, limiter=services.ready_limiter, abandon_on_cancel=True
        )
    message = f"the pooled path did not answer within {READY_SECONDS:g} s"
    return unavailable_response("not_ready", message, services.database.state(), 1)


def _probe(services: Services) -> JSONResponse:
    database = services.database
    try:
        database.run(ping, deadline=Deadline.after(PROBE_SECONDS), name="ready", read_only=True)
    except DatabaseUnavailable as error:
        return unavailable_response("not_ready", error.reason, error.state, 1)
    return JSONResponse({"status": "ready", "pool": asdict(database.state())})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
    summary="Prometheus text",
)
async def metrics(services: ServicesDep) -> Response:
    """Return every metric of this process."""
    return Response(generate_latest(services.registry), media_type=CONTENT_TYPE_LATEST)
