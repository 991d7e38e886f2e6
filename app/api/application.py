"""The application: settings in, FastAPI out."""

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import events, reading, results, submission
from app.api.body import BodyLimit
from app.api.context import Admission, RequestContext, Services
from app.api.errors import register_handlers
from app.api.models import ErrorBody
from app.api.sharing import SharedMetrics
from app.database import Database, make_database, make_standby, open_or_warn
from app.hint import HintSender
from app.metrics import HttpMetrics, make_registry
from app.server import Health
from app.settings import ApiSettings, Live

CLOSE_SECONDS = 5.0
# Enough to keep the threads busy through a burst, few enough to answer in time.
ADMITTED_PER_THREAD = 10
# What any path may answer, from its connection inwards.
ANYWHERE: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 408, 413, 431, 500, 503)
}
DOCUMENTATION = "/docs"
DESCRIPTION = (
    "Assesses sites for nine climate perils under four scenarios, 2021-2100. "
    "Submit, follow the progress, read the results."
)


def create_app(
    live: Live[ApiSettings],
    database: Database | None = None,
    *,
    opening: Callable[[Database], None] = open_or_warn,
    sharing: bool = False,
) -> FastAPI:
    """Build the api; nothing is opened before the application starts.

    `database` replaces the pool that the settings describe; `opening` opens it, and raises
    where the application shall not start without it. With `sharing` the metrics are those of all
    serving processes.
    """
    registry = make_registry()
    pool = database or make_database(live.current, registry)
    hints = HintSender(live.current.hints)
    shared = SharedMetrics(registry) if sharing else None
    standby = None if database else make_standby(live.current, registry)
    services = Services(live, pool, registry, hints, standby, opening, shared)
    # Its documentation comes from here alone: no script, style or font of another host.
    app = FastAPIOffline(
        docs_url=DOCUMENTATION,
        # Its script fetches a logo from elsewhere.
        redoc_url=None,
        # Otherwise Swagger UI has a host of its makers judge the document.
        swagger_ui_parameters={"validatorUrl": ""},
        title="Sluice risk service",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        responses=ANYWHERE,
        # It would redirect to whatever host the caller names.
        redirect_slashes=False,
    )
    app.state.services = services
    for router in (submission.router, reading.router, results.router, events.router):
        app.include_router(router)
    health = Health(pool, shared.text if shared else partial(generate_latest, registry))
    _add_operation(app, health)
    register_handlers(app)
    _add_layers(app, services)
    app.add_middleware(MonitorPort, port=live.current.monitor_port, pages=health.pages())
    return app


class MonitorPort:
    """Gives what came in on the monitor port to its pages, and all else to the api.

    The port is that of the socket, not the one in the request's Host.
    """

    def __init__(self, app: ASGIApp, *, port: int, pages: ASGIApp) -> None:
        self._app = app
        self._port = port
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        monitored = scope["type"] == "http" and scope["server"][1] == self._port
        await (self._pages if monitored else self._app)(scope, receive, send)


def _add_operation(app: FastAPI, health: Health) -> None:
    @app.get("/", tags=["operation"], summary="What this is, and where to go")
    async def root() -> JSONResponse:
        """Name the service and the paths to begin with."""
        return JSONResponse(
            {
                "name": app.title,
                "version": app.version,
                "description": app.description,
                "api": submission.PATH,
                "documentation": DOCUMENTATION,
                "openapi": app.openapi_url,
                "health": "/health/ready",
            }
        )

    @app.get("/health/live", tags=["operation"], summary="The process is up")
    async def live() -> Response:
        """Answer at once; touches no database and no thread."""
        return health.live()

    @app.get(
        "/health/ready",
        tags=["operation"],
        summary="The pooled path answers within a second",
    )
    async def ready() -> Response:
        """Run a query through the pool, or say why that failed."""
        return await health.ready()


def _add_layers(app: FastAPI, services: Services) -> None:
    http = services.settings.http
    # Added last is outermost.
    app.add_middleware(Admission, admitted_max=http.threads * ADMITTED_PER_THREAD)
    app.add_middleware(
        BodyLimit,
        max_bytes=http.max_body_bytes,
        timeout_seconds=http.request_deadline_seconds,
    )
    app.add_middleware(
        RequestContext,
        deadline_seconds=http.request_deadline_seconds,
        metrics=HttpMetrics(None if services.shared else services.registry),
        last_minute=services.last_minute,
    )


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    to_thread.current_default_thread_limiter().total_tokens = services.settings.http.threads
    await to_thread.run_sync(services.opening, services.database)
    if services.standby:
        await to_thread.run_sync(open_or_warn, services.standby)
    services.hints.start()
    try:
        # Until before the pool closes: a closed one is no longer collected.
        async with services.shared.copying() if services.shared else contextlib.nullcontext():
            yield
    finally:
        await to_thread.run_sync(services.hints.close)
        await to_thread.run_sync(services.database.close, CLOSE_SECONDS)
        if services.standby:
            await to_thread.run_sync(services.standby.close, CLOSE_SECONDS)
