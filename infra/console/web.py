"""The page over HTTP: its files, a stream of events, and whether somebody still looks."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.console.board import Board, Part

# Requests beside the streams.
_REQUESTS_MAX: Final = 64
# What waits in the kernel for a reader that takes nothing.
_SEND_BUFFER_BYTES: Final = 64 << 10
# Longer than the slowest look and the pause after it.
STALE_SECONDS = 30.0
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# A page of another site that has its own name lead here is not served.
_HOSTS: Final = ["127.0.0.1", "localhost"]


class Headers:
    """Adds the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


def create_app(board: Board, parts: Sequence[Part], page: Path) -> Starlette:
    """Build the application; while it runs, it keeps the parts on the board."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(board.keep(part)) for part in parts]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def events(_request: Request) -> Response:
        if board.is_full:
            message = f"{board.readers} pages are open, and there is room for no more; close one"
            return PlainTextResponse(message, 503, {"Retry-After": "10"})
        return StreamingResponse(board.read(), media_type="text/event-stream")

    async def health(_request: Request) -> Response:
        age = board.age(parts[0].name)
        fresh = age < STALE_SECONDS
        document = {"status": "ok" if fresh else "the last look is too old"}
        return JSONResponse(document, 200 if fresh else 503)

    return Starlette(
        routes=[
            Route("/events", events),
            Route("/health", health),
            Mount("/", StaticFiles(directory=page, html=True)),
        ],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS),
        ],
        lifespan=lifespan,
    )


def listening(address: str, port: int, *, stuck_ms: int) -> socket.socket:
    """Return a socket whose connections end when their peer takes nothing for so long."""
    found = socket.create_server((address, port))
    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stuck_ms)
    return found


def make_server(app: ASGIApp, *, readers_max: int) -> uvicorn.Server:
    """Build a server; `run(sockets=[...])` serves until a signal."""
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=readers_max + _REQUESTS_MAX,
        timeout_keep_alive=5,
        # Streams do not end by themselves.
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
