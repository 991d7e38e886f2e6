"""Running an ASGI application under uvicorn, and what api and worker answer alike."""

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import anyio
import uvicorn
from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.connection import BoundedServer, bounded
from app.database import Database, ping
from app.log import get_logger
from app.pool import DatabaseUnavailable, Deadline
from app.settings import HttpSettings

# Longer than a load balancer keeps an idle connection, so that this side never closes one first.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
# Of one process. Measured: 8 kB each that waits, 16 kB with half a head in it; 32 MB at most.
# Two for each event stream come on top.
CONNECTIONS_MAX = 2000
# How long kept-alive connections may stay idle at the end of a process that retires.
LAME_DUCK_SECONDS = 5.0
CONNECTION_CLOSE = (b"connection", b"close")
READY_SECONDS = 1.0
RETRY_AFTER_SECONDS = 1
# A little less, so that the pool says what is wrong before the second is over.
PROBE_SECONDS = 0.9
PROBE_THREADS = 4
# What accept(2) says while files or memory are short; the connection stays in the queue.
SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORT_SECONDS = 1.0
log = get_logger("app.server")


class Listener:
    """Accepts on a socket that processes share: one connection a turn of the event loop.

    The loop's own server takes all that are queued at once, so that of a burst of connections
    that are kept one process gets nearly all, and the others stay idle.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self._loop = loop
        self._listening = listening
        self._protocol = protocol
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open = True
        listening.listen(BACKLOG)
        listening.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more; may be called again."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listening)

    async def wait_closed(self) -> None:
        """Wait until the connections that were accepted are made."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> None:
        if self._open:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            # Otherwise another process was quicker, or the caller has gone.
            if error.errno in SHORT_OF:
                self._loop.remove_reader(self._listening)
                self._loop.call_later(SHORT_SECONDS, self._listen)
            return
        task = self._loop.create_task(
            self._loop.connect_accepted_socket(self._protocol, connection)
        )
        # The loop itself holds a task only weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Server(BoundedServer):
    """Uvicorn that notifies its owner of its start and of a stop signal, and that can retire.

    `on_started` is called once it serves, `on_stop` at a stop signal, before it drains.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None] | None = None,
        on_started: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._on_started = on_started
        self._retiring = False
        self._lame_until: float | None = None

    def retire(self) -> None:
        """Make way for another process on the same socket; returns at once, from any thread.

        Nothing more is accepted. Every answer says `Connection: close`, so that a caller
        who keeps a connection learns of it before it goes; only one that is still idle at
        the end of LAME_DUCK_SECONDS is closed without notice.
        """
        self._retiring = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, on sockets that other processes may have too."""
        await super().startup([] if sockets else None)
        loop = asyncio.get_running_loop()
        listeners = [Listener(loop, one, self._connection) for one in sockets or ()]
        # Uvicorn does nothing with them but close them.
        self.servers += cast("Any", listeners)
        if self.started and self._on_started is not None:
            self._on_started()

    def _connection(self) -> asyncio.Protocol:
        protocol = cast("type[HttpToolsProtocol]", self.config.http_protocol_class)
        return protocol(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Return True if it is time to shut down; called ten times a second."""
        if not self._retiring:
            return await super().on_tick(counter)
        if self._lame_until is None:
            self._lame_until = time.monotonic() + LAME_DUCK_SECONDS
            for server in self.servers:
                server.close()
            self.config.encoded_headers = [*self.config.encoded_headers, CONNECTION_CLOSE]
            self.server_state.default_headers = [
                *self.server_state.default_headers,
                CONNECTION_CLOSE,
            ]
        elif not self.server_state.connections or time.monotonic() > self._lame_until:
            return True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal and begin to shut down."""
        if self._on_stop is not None:
            self._on_stop()
        super().handle_exit(sig, frame)


def make_server(
    app: ASGIApp,
    http: HttpSettings,
    on_stop: Callable[[], None] | None = None,
    on_started: Callable[[], None] | None = None,
) -> Server:
    """Build a server; `run()` serves until SIGTERM or SIGINT, then drains and returns."""
    config = uvicorn.Config(
        app,
        host=http.host,
        port=http.port,
        loop="uvloop",
        http=bounded(CONNECTIONS_MAX + 2 * http.event_streams_max),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(http.shutdown_grace_seconds)),
    )
    server = Server(config, on_stop, on_started)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # For a signal before uvicorn listens to them. It also raises each again once it has drained,
    # when the default action would turn a clean stop into death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return server


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    **details: Any,
) -> JSONResponse:
    """Build an error answer, {"error": {"code", "message", ...}}; details of None are left out."""
    body = {"code": code, "message": message}
    body |= {name: value for name, value in details.items() if value is not None}
    return JSONResponse({"error": body}, status_code=status, headers=dict(headers or {}))


class Health:
    """Answers liveness, readiness and metrics; none of them waits for the requests' threads.

    `metrics_text` returns what there is to scrape; `fault` says why the process is not fit for
    work, before the database is asked.
    """

    def __init__(
        self,
        database: Database,
        metrics_text: Callable[[], bytes],
        fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._database = database
        self._metrics_text = metrics_text
        self._fault = fault
        # Their own few threads: requests stuck on the database must not silence readiness.
        self._limiter = anyio.CapacityLimiter(PROBE_THREADS)

    def live(self) -> Response:
        """Answer at once; touches no database and no thread."""
        return JSONResponse({"status": "live"})

    async def ready(self) -> Response:
        """Run a query through the pool within a second, or answer 503 with why that failed."""
        fault: str | None = f"the pooled path did not answer within {READY_SECONDS:g} s"
        with anyio.move_on_after(READY_SECONDS):
            fault = await to_thread.run_sync(
                self._probe, limiter=self._limiter, abandon_on_cancel=True
            )
        pool = asdict(self._database.state())
        if fault is None:
            return JSONResponse({"status": "ready", "pool": pool})
        retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        status = HTTPStatus.SERVICE_UNAVAILABLE
        message = f"{fault}; try again in {RETRY_AFTER_SECONDS} s"
        return error_response(status, "not_ready", message, headers=retry, pool=pool)

    async def metrics(self) -> Response:
        """Return every metric as Prometheus text."""
        text = await to_thread.run_sync(self._metrics_text, limiter=self._limiter)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def pages(self, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
        """Return the application of a monitor port, which the outside does not reach."""

        async def live(_request: Request) -> Response:
            return self.live()

        async def ready(_request: Request) -> Response:
            return await self.ready()

        async def metrics(_request: Request) -> Response:
            return await self.metrics()

        routes = [
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
        ]
        app = Starlette(routes=routes, lifespan=lifespan)
        # It would redirect to whatever host the caller names.
        app.router.redirect_slashes = False
        return app

    def _probe(self) -> str | None:
        if (fault := self._fault()) is not None:
            return fault
        deadline = Deadline.after(PROBE_SECONDS)
        try:
            self._database.run(ping, deadline=deadline, name="ready", read_only=True)
        except DatabaseUnavailable as error:
            # With addresses, roles and SQLSTATEs, which are nothing for whoever asks.
            log.warning("not ready", reason=error.reason)
            return "the database does not answer through the pool"
        return None
