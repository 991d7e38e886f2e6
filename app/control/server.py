"""The control plane's server: a thread with an event loop of its own."""

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from app.connection import BoundedServer, bounded
from app.control.address import bound_socket, is_still_ours
from app.control.application import Controlled, create_control_app
from app.control.certificate import Certificate
from app.log import get_logger
from app.settings import ControlSettings

RETRY_SECONDS = 1.0
WATCH_SECONDS = 1
STOP_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 5
BACKLOG = 64
# For a few operators and their tools.
CONNECTIONS_MAX = 64
log = get_logger("app.control")


class ControlServer:
    """Serves for the length of a `with` block; the service runs inside it.

    Without its address or certificate it tries again: the service must not depend on
    the network of its operators.
    """

    def __init__(self, process: Controlled, settings: ControlSettings) -> None:
        self._settings = settings
        self._app = create_control_app(process, Path(settings.token_file))
        self._stopping = threading.Event()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self.address: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        """Start the thread; returns at once."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving and wait for the thread, a few seconds at most."""
        self.stop()
        self._thread.join(STOP_SECONDS)

    def stop(self) -> None:
        """Stop serving; returns at once."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True

    def _run(self) -> None:
        reason = ""
        while not self._stopping.is_set():
            try:
                self._serve()
                reason = ""
            except OSError as error:
                if str(error) != reason:
                    reason = str(error)
                    log.warning("control plane is not reachable", reason=reason)
            except Exception:
                log.exception("control plane failed")
            self._stopping.wait(RETRY_SECONDS)

    def _serve(self) -> None:
        certificate = Certificate(self._settings)
        with bound_socket(self._settings.alias, self._settings.port) as bound:
            self.address = bound.getsockname()[:2]
            server = self._server = self._make(certificate, bound)
            if self._stopping.is_set():
                return
            log.info("control plane is open", address="{}:{}".format(*self.address))
            try:
                server.run(sockets=[bound])
            finally:
                self.address = None

    def _make(self, certificate: Certificate, bound: socket.socket) -> uvicorn.Server:
        async def watch() -> None:
            # On the loop: in another thread a handshake could meet half a renewal.
            certificate.refresh()
            if not is_still_ours(bound):
                log.warning("control address is gone; looking for the new one")
                server.should_exit = True

        config = uvicorn.Config(
            self._app,
            loop="uvloop",
            http=bounded(CONNECTIONS_MAX),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            timeout_notify=WATCH_SECONDS,
            callback_notify=watch,
            ssl_context_factory=lambda _config, _default: certificate.context,
        )
        server = BoundedServer(config)
        return server
