"""The control plane of a process: endpoints, certificate, address, and the thread that serves.

The endpoints answer JSON, and nothing without the token.
"""

import errno
import hmac
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.connection import BoundedServer, bounded
from app.control.process import NotRestartedError, Process, ReloadRefusedError
from app.log import get_logger
from app.server import error_response
from app.settings import ControlSettings

RETRY_SECONDS = 1.0
WATCH_SECONDS = 1
STOP_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 5
BACKLOG = 64
# For a few operators and their tools.
CONNECTIONS_MAX = 64
Stamp = tuple[tuple[int, int], ...]
log = get_logger("app.control")


class TokenGuard:
    """Lets a request through that carries the token.

    The file is read for each request, so that a rotated token counts from the next one;
    without a token in it nobody gets in.
    """

    def __init__(self, app: ASGIApp, *, token_file: Path) -> None:
        self._app = app
        self._token_file = token_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._admits(Headers(scope=scope).get("authorization", "")):
            await self._app(scope, receive, send)
            return
        log.warning("control refused", path=scope["path"], client=(scope["client"] or ("",))[0])
        message = "the bearer token of this service is needed"
        response = error_response(HTTPStatus.UNAUTHORIZED, "unauthorized", message)
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _admits(self, authorization: str) -> bool:
        try:
            token = self._token_file.read_bytes().strip()
        except OSError as error:
            log.error("token cannot be read", file=str(self._token_file), reason=error.strerror)
            return False
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)
        return bool(token) and scheme.lower() == "bearer" and same


def create_control_app(process: Process[Any], token_file: Path) -> Starlette:
    """Build the control plane of one process."""

    async def state(_request: Request) -> Response:
        return JSONResponse(await to_thread.run_sync(process.state))

    async def reload(_request: Request) -> Response:
        try:
            return await change("reload", process.reload)
        except ReloadRefusedError as error:
            log.warning("reload refused", reason=str(error))
            return error_response(HTTPStatus.CONFLICT, "reload_refused", str(error))

    async def drain(_request: Request) -> Response:
        return await change("drain", process.drain)

    async def restart(_request: Request) -> Response:
        try:
            return await change("restart", process.restart)
        except NotRestartedError as error:
            log.warning("not restarted", reason=str(error))
            return error_response(HTTPStatus.CONFLICT, "not_restarted", str(error))

    async def change(what: str, work: Callable[[], None]) -> Response:
        log.info("control", what=what)
        await to_thread.run_sync(work)
        return JSONResponse(await to_thread.run_sync(process.state))

    app = Starlette(
        routes=[
            Route("/control/state", state, methods=["GET"]),
            Route("/control/reload", reload, methods=["POST"]),
            Route("/control/drain", drain, methods=["POST"]),
            Route("/control/restart", restart, methods=["POST"]),
        ],
        middleware=[Middleware(TokenGuard, token_file=token_file)],
    )
    # It would redirect to whatever host the caller names.
    app.router.redirect_slashes = False
    return app


class Certificate:
    """A TLS context that follows its files, so that a renewal needs no reload.

    An operator who has the new CA could not reach a process that shows the old
    certificate, and so could not reload it either.
    """

    def __init__(self, settings: ControlSettings) -> None:
        """Load the pair; raise OSError (ssl.SSLError included) when it cannot be used."""
        self._files = (settings.certificate_file, settings.key_file)
        self._seen = self._stamp()
        self.context = self._loaded()

    def refresh(self) -> None:
        """Load the pair again if it changed; one that cannot be used is left for later."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            # First on the side: a pair that does not match would spoil the context in use.
            self._loaded()
            self.context.load_cert_chain(*self._files)
        except OSError as error:
            log.warning("control certificate not taken yet", reason=str(error))
            return
        self._seen = stamp
        log.info("control certificate renewed")

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*self._files)
        return context

    def _stamp(self) -> Stamp:
        found = (os.stat(path) for path in self._files)
        return tuple((status.st_ino, status.st_mtime_ns) for status in found)


def bound_socket(alias: str, port: int) -> socket.socket:
    """Return a socket bound to whichever address of `alias` is this host's own.

    All replicas share the alias, and each has one of its addresses.

    Raises:
        OSError: the name is not known, none of its addresses is ours, or the port is taken.

    """
    # The family that operators resolve the alias with.
    known = socket.getaddrinfo(alias, port, socket.AF_INET, socket.SOCK_STREAM)
    for family, kind, protocol, _name, address in known:
        bound = _bound(socket.socket(family, kind, protocol), address)
        if bound is not None:
            return bound
    addresses = ", ".join(str(one[4][0]) for one in known)
    raise OSError(errno.EADDRNOTAVAIL, f"{alias} ({addresses}) names no address of this host")


def is_still_ours(bound: socket.socket) -> bool:
    """Return True if the address of a bound socket still belongs to this host."""
    host = bound.getsockname()[0]
    with closing(socket.socket(bound.family, bound.type)) as trial:
        return _bound(trial, (host, 0)) is not None


def _bound(candidate: socket.socket, address: tuple[object, ...]) -> socket.socket | None:
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A process that replaces another listens beside it until that makes way.
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        candidate.bind(address)
    except OSError as error:
        candidate.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return candidate


class ControlServer:
    """Serves for the length of a `with` block; the service runs inside it.

    Without its address or certificate it tries again: the service must not depend on
    the network of its operators.
    """

    def __init__(self, process: Process[Any], settings: ControlSettings) -> None:
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
