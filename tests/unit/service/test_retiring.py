"""A server that retires: whoever is connected is answered and told, nobody new comes in."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from starlette.types import Receive, Scope, Send

from app import server as serving
from app.server import make_server
from app.settings import HttpSettings

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
    """Answer at once, or after half a second where the path says so."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class Serving:
    server: serving.Server
    port: int
    thread: threading.Thread

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)


@contextmanager
def _server() -> Iterator[Serving]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    started = threading.Event()
    server = make_server(application, HTTP, on_started=started.set)
    port = int(listener.getsockname()[1])
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield Serving(server, port, thread)
    finally:
        server.should_exit = True
        thread.join(10)


def _get(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection", "")


def test_a_kept_connection_is_answered_and_told_to_go() -> None:
    with _server() as found:
        connection = found.connect()
        assert _get(connection) == (200, "")
        found.server.retire()
        assert _get_until_told(connection) == (200, "close")
        found.thread.join(5)
        assert not found.thread.is_alive()


def _get_until_told(connection: http.client.HTTPConnection) -> tuple[int, str]:
    """Ask until the answer says that the connection ends: retiring begins within a tick."""
    while (answer := _get(connection)) == (200, ""):
        pass
    return answer


def test_a_request_in_flight_is_answered() -> None:
    with _server() as found:
        connection = found.connect()
        connection.request("GET", "/slow")
        found.server.retire()
        assert connection.getresponse().read() == b"ok"


def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LAME_DUCK_SECONDS", 0.5)
    with _server() as found:
        connection = found.connect()
        _get(connection)
        found.server.retire()
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""
        found.thread.join(5)
        assert not found.thread.is_alive()


def test_nothing_more_is_accepted() -> None:
    with _server() as found:
        kept = found.connect()
        _get(kept)
        found.server.retire()
        assert _get_until_told(kept) == (200, "close")
        found.thread.join(5)
        with pytest.raises(ConnectionRefusedError):
            _get(found.connect())
