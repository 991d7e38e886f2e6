"""Running an ASGI application under uvicorn, the same way for api and worker."""

import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from app.settings import HttpSettings

# Longer than a load balancer keeps an idle connection, so that it is never us who cut one.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048


class Server(uvicorn.Server):
    """Uvicorn that tells its owner of a stop signal at once, before it drains."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal and begin to shut down."""
        if self._on_stop is not None:
            self._on_stop()
        super().handle_exit(sig, frame)


def make_server(
    app: ASGIApp, http: HttpSettings, on_stop: Callable[[], None] | None = None
) -> Server:
    """Build a server; `run()` serves until SIGTERM or SIGINT, then drains and returns."""
    config = uvicorn.Config(
        app,
        host=http.host,
        port=http.port,
        loop="uvloop",
        http="httptools",
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
    return Server(config, on_stop)
