"""A server that retires: whoever is connected is answered and told, nobody new comes in."""

from __future__ import annotations

import http.client
import socket

import pytest

from app import server as server_module
from tests.unit.service.serving import serving


def _get(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection", "")


def test_a_kept_connection_is_answered_and_told_to_go() -> None:
    with serving() as found:
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
    with serving() as found:
        connection = found.connect()
        connection.request("GET", "/slow")
        found.server.retire()
        assert connection.getresponse().read() == b"ok"


def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LAME_DUCK_SECONDS", 0.5)
    with serving() as found:
        connection = found.connect()
        _get(connection)
        found.server.retire()
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""
        found.thread.join(5)
        assert not found.thread.is_alive()


def test_nothing_more_is_accepted() -> None:
    with serving() as found:
        kept = found.connect()
        _get(kept)
        found.server.retire()
        assert _get_until_told(kept) == (200, "close")
        found.thread.join(5)
        with pytest.raises(ConnectionRefusedError):
            _get(found.connect())


def test_another_server_on_the_same_socket_goes_on_accepting() -> None:
    with socket.socket() as shared:
        shared.bind(("127.0.0.1", 0))
        with serving(shared.dup()) as one, serving(shared.dup()) as other:
            one.server.retire()
            one.thread.join(5)
            assert not one.thread.is_alive()
            for _ in range(3):
                assert _get(other.connect()) == (200, "")
