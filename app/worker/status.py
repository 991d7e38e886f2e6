"""The worker's status server: liveness, readiness, metrics."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict

import anyio
from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.database import Database, ping
from app.pool import DatabaseUnavailable, Deadline
from app.worker.crew import Crew

READY_SECONDS = 1.0
# A little less, so that the pool says what is wrong before the second is over.
PROBE_SECONDS = 0.9
PROBES_MAX = 4


def create_status_app(crew: Crew, database: Database, registry: CollectorRegistry) -> Starlette:
    """Build the status server; its lifespan starts the crew and shuts it down."""
    limiter = anyio.CapacityLimiter(PROBES_MAX)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(crew.start)
        try:
            yield
        finally:
            await to_thread.run_sync(crew.shut_down)

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_request: Request) -> Response:
        fault: str | None = f"the pooled path did not answer within {READY_SECONDS:g} s"
        with anyio.move_on_after(READY_SECONDS):
            fault = await to_thread.run_sync(
                _fault, crew, database, limiter=limiter, abandon_on_cancel=True
            )
        pool = asdict(database.state())
        if fault is None:
            return JSONResponse({"status": "ready", "pool": pool})
        error = {"code": "not_ready", "message": fault, "pool": pool}
        return JSONResponse({"error": error}, status_code=503, headers={"Retry-After": "1"})

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _fault(crew: Crew, database: Database) -> str | None:
    fault = crew.fault()
    if fault is not None:
        return fault
    try:
        database.run(ping, deadline=Deadline.after(PROBE_SECONDS), name="ready", read_only=True)
    except DatabaseUnavailable as error:
        return error.reason
    return None
