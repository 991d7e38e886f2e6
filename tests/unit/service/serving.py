"""A small application behind the project's HTTP server, on a free port of loopback."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from app.server import Server, make_server
from app.settings import HttpSettings

LARGE_BYTES = 32 * 1024 * 1024
HTTP = HttpSettings(
    host="127.0.0.1",
    port=8000,
    max_body_bytes=1024,
    request_deadline_seconds=5,
    threads=1,
    event_streams_max=1,
    shutdown_grace_seconds=5,
)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, by the path slowly, with the size of the body, or with very much."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b"ok"
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    elif scope["path"] == "/large":
        body = b"x" * LARGE_BYTES
    elif scope["path"] == "/size":
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
        body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Serving:
    """A running server."""

    server: Server
    port: int
    thread: threading.Thread

    def connect(self) -> http.client.HTTPConnection:
        """Return a client that connects at its first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def socket(self, address: str = "127.0.0.1") -> socket.socket:
        """Return a connection that comes from this address of loopback."""
        return socket.create_connection(("127.0.0.1", self.port), 10, (address, 0))


@contextmanager
def serving(listener: socket.socket | None = None, app: ASGIApp = application) -> Iterator[Serving]:
    """Serve for the length of the block, on a socket that is bound or a new one."""
    if listener is None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    started = threading.Event()
    server = make_server(app, HTTP, on_started=started.set)
    port = int(listener.getsockname()[1])
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield Serving(server, port, thread)
    finally:
        server.should_exit = True
        thread.join(10)
