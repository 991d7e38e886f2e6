"""The endpoints of the control plane: JSON, and nothing without the token."""

import hmac
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.control.process import NotRestartedError, ReloadRefusedError
from app.log import get_logger

log = get_logger("app.control")


class Controlled(Protocol):
    """What the endpoints need of `app.control.process.Process`."""

    def state(self) -> dict[str, Any]:
        """Return what is in force."""

    def reload(self) -> None:
        """Put the settings file in force, or raise ReloadRefusedError."""

    def drain(self) -> None:
        """Replace every connection of the pool."""

    def restart(self) -> None:
        """Have a new process take over, or raise NotRestartedError."""


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
        response = _error(HTTPStatus.UNAUTHORIZED, "unauthorized", message)
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


def create_control_app(process: Controlled, token_file: Path) -> Starlette:
    """Build the control plane of one process."""

    async def state(_request: Request) -> Response:
        return JSONResponse(await to_thread.run_sync(process.state))

    async def reload(_request: Request) -> Response:
        try:
            return await change("reload", process.reload)
        except ReloadRefusedError as error:
            log.warning("reload refused", reason=str(error))
            return _error(HTTPStatus.CONFLICT, "reload_refused", str(error))

    async def drain(_request: Request) -> Response:
        return await change("drain", process.drain)

    async def restart(_request: Request) -> Response:
        try:
            return await change("restart", process.restart)
        except NotRestartedError as error:
            log.warning("not restarted", reason=str(error))
            return _error(HTTPStatus.CONFLICT, "not_restarted", str(error))

    async def change(what: str, work: Callable[[], None]) -> Response:
        log.info("control", what=what)
        await to_thread.run_sync(work)
        return JSONResponse(await to_thread.run_sync(process.state))

    return Starlette(
        routes=[
            Route("/control/state", state, methods=["GET"]),
            Route("/control/reload", reload, methods=["POST"]),
            Route("/control/drain", drain, methods=["POST"]),
            Route("/control/restart", restart, methods=["POST"]),
        ],
        middleware=[Middleware(TokenGuard, token_file=token_file)],
    )


def _error(status: HTTPStatus, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)
