"""Running an ASGI application under uvicorn, the same way for api and worker."""

import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from app.connection import BoundedServer, bounded
from app.settings import HttpSettings

# Longer than a load balancer keeps an idle connection, so that it is never us who cut one.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
# Measured: 8 kB each that waits, 16 kB with half a head in it; 32 MB of API_MEMORY_MB at most.
# Two for each event stream come on top.
CONNECTIONS_MAX = 2000
# How long kept-alive connections may stay idle at the end of a process that retires.
LAME_DUCK_SECONDS = 5.0
CONNECTION_CLOSE = (b"connection", b"close")


class Server(BoundedServer):
    """Uvicorn that tells its owner when it serves and of a stop signal, and that can retire.

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
        who keeps a connection hears of it before it goes; only one that is still idle at
        the end of LAME_DUCK_SECONDS is closed without a word.
        """
        self._retiring = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        if self.started and self._on_started is not None:
            self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """Tell, ten times a second, whether it is time to shut down."""
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
    # Uvicorn raises the signal again once it has drained; the default action would turn
    # a clean stop into death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    return Server(config, on_stop, on_started)
