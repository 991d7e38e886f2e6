"""A connection's bounds: bytes of a head, time of every part, number."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app import connection as bounds
from app import server as server_module
from app.connection import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    PIECE_BYTES,
    PIPELINED_BYTES_MAX,
    PIPELINED_MAX,
    bounded,
)
from tests.fix_stack import during, poll
from tests.unit.service.serving import LARGE_BYTES, Serving, serving

SHORT_SECONDS = 0.5
GIVE_UP_SECONDS = 20.0
HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
CHUNKED = b"POST /size HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nhalf"
ENDLESS = b"x" * (HEAD_BYTES_MAX + PIECE_BYTES)
TOO_LARGE = {
    "one header": HEAD + b"a: " + ENDLESS + b"\r\n\r\n",
    "one header without an end": HEAD + b"a: " + ENDLESS,
    "one name without an end": HEAD + ENDLESS,
    "many headers": HEAD + b"a:b\r\n" * HEADERS_MAX + b"\r\n",
    "a target without an end": b"GET /" + ENDLESS,
    "trailers": CHUNKED + b"0\r\n" + b"a:b\r\n" * HEADERS_MAX,
    "one trailer without an end": CHUNKED + b"0\r\na: " + ENDLESS,
    "a chunk's extension without an end": CHUNKED + b"2;" + ENDLESS,
    "empty lines": b"\r\n" * HEAD_BYTES_MAX,
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be late after half a second."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "UNSENT_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(bounds, name, SHORT_SECONDS)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server hold 6 connections: 3 of one address."""
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 4)


@pytest.fixture
def found() -> Iterator[Serving]:
    with serving() as running:
        yield running


def read_all(connection: socket.socket) -> bytes:
    """Return everything until the other side closes, in whatever way."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass
    return received


def send_without_end(connection: socket.socket) -> None:
    """Send headers until the other side refuses to take more."""
    while True:
        connection.sendall(b"a: b\r\n" * 1000)


def last_answer(text: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and error of the last of the answers."""
    head, _, body = text[text.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def is_answered(connection: socket.socket, request: bytes = HEAD + b"\r\n") -> bool:
    """Return whether a request on this connection gets its 200; it stays open."""
    try:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return (answer.status, answer.read()) == (200, b"ok")
    except (http.client.HTTPException, ConnectionError):
        return False


@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("kept", [False, True])
def test_a_head_that_is_too_large_is_431(found: Serving, name: str, *, kept: bool) -> None:
    with found.socket() as connection:
        assert not kept or is_answered(connection)
        connection.sendall(TOO_LARGE[name])
        status, error = last_answer(read_all(connection))
    assert (status, error["code"]) == (431, "headers_too_large")
    assert str(HEAD_BYTES_MAX) in error["message"]


@pytest.mark.usefixtures("short")
def test_an_endless_head_is_431_and_then_cut(found: Serving) -> None:
    with found.socket() as connection:
        connection.sendall(HEAD + b"a: b\r\n" * (HEADERS_MAX + 1))
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
        with pytest.raises(ConnectionError):
            send_without_end(connection)


def test_a_large_head_within_the_bounds_is_answered(found: Serving) -> None:
    with found.socket() as connection:
        headers = b"a: b\r\n" * (HEADERS_MAX - 2) + b"c: " + b"x" * (HEAD_BYTES_MAX - 1000)
        assert is_answered(connection, HEAD + headers + b"\r\n\r\n")
        assert is_answered(connection)


def test_a_large_body_is_no_head(found: Serving) -> None:
    client = found.connect()
    client.request("POST", "/size", body=b"x" * LARGE_BYTES)
    assert client.getresponse().read() == str(LARGE_BYTES).encode()


def test_an_upgrade_is_answered_as_if_not_asked_for(found: Serving) -> None:
    with found.socket() as connection:
        upgrade = (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
        )
        assert is_answered(connection, HEAD + upgrade)


def test_what_is_not_http_is_400(found: Serving) -> None:
    with found.socket() as connection:
        connection.sendall(b"\x16\x03\x01\r\n\r\n")
        status, error = last_answer(read_all(connection))
    assert (status, error["code"]) == (400, "malformed_request")


def test_requests_in_a_pipeline_are_answered_up_to_a_number(found: Serving) -> None:
    request = HEAD + b"\r\n"
    with found.socket() as connection:
        connection.sendall(request * PIPELINED_MAX + HEAD + b"Connection: close\r\n\r\n")
        assert read_all(connection).count(b"200 OK") == PIPELINED_MAX + 1
    with found.socket() as connection:
        connection.sendall(request * (PIPELINED_MAX + 3))
        assert read_all(connection).count(b"200 OK") == 0


def posted(size: int) -> bytes:
    """Return a request with so many bytes of body."""
    return b"POST /size HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


@pytest.mark.parametrize(
    ("waiting", "answers"),
    [
        ([posted(PIPELINED_BYTES_MAX // 3)] * 2, 3),
        ([posted(PIPELINED_BYTES_MAX // 3)] * 3, 0),
        ([posted(PIPELINED_BYTES_MAX)], 0),
        ([HEAD + b"a: " + b"x" * (PIPELINED_BYTES_MAX // 3) + b"\r\n\r\n"] * 2, 3),
        ([HEAD + b"a: " + b"x" * (PIPELINED_BYTES_MAX // 3) + b"\r\n\r\n"] * 3, 0),
    ],
    ids=["bodies", "too many bodies", "one body", "heads", "too many heads"],
)
def test_requests_in_a_pipeline_are_bounded_in_bytes(
    found: Serving, waiting: list[bytes], answers: int
) -> None:
    slow = HEAD.replace(b"/ ", b"/slow ", 1) + b"\r\n"
    with found.socket() as connection:
        connection.settimeout(SHORT_SECONDS * 4)
        connection.sendall(slow + b"".join(waiting))
        received = b""
        while received.count(b"200 OK") < max(answers, 1):
            try:
                data = connection.recv(65536)
            except ConnectionError:
                break
            if not data:
                break
            received += data
    assert received.count(b"200 OK") == answers


def test_those_that_were_answered_wait_no_longer(found: Serving) -> None:
    pair = HEAD.replace(b"/ ", b"/slow ", 1) + b"\r\n" + posted(PIPELINED_BYTES_MAX // 3)
    with found.socket() as connection:
        for _ in range(4):
            connection.sendall(pair)
            received = b""
            while received.count(b"200 OK") < 2:
                received += connection.recv(65536)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("start", [b"G", HEAD, HEAD + b"a: ", POST % b"/size"])
def test_half_a_request_is_408(found: Serving, start: bytes) -> None:
    with found.socket() as connection:
        connection.sendall(start)
        status, error = last_answer(read_all(connection))
    assert (status, error["code"]) == (408, "request_too_slow")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("start", [HEAD + b"a: ", POST % b"/size"])
def test_one_byte_now_and_then_does_not_buy_time(found: Serving, start: bytes) -> None:
    request = start + b"x" * 4
    with found.socket() as connection:
        connection.settimeout(SHORT_SECONDS / 2)
        received, until = b"", time.monotonic() + GIVE_UP_SECONDS
        while not received:
            assert time.monotonic() < until
            connection.sendall(request[:1])
            request = request[1:] or b"x"
            try:
                received = connection.recv(9)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 ")


@pytest.mark.usefixtures("short")
def test_a_silent_connection_is_closed_without_an_answer(found: Serving) -> None:
    with found.socket() as connection:
        assert read_all(connection) == b""


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("rest", [b"\r\n", b"G"])
def test_a_kept_connection_that_begins_again_is_awaited_no_longer(
    found: Serving, rest: bytes
) -> None:
    with found.socket() as connection:
        assert is_answered(connection)
        connection.sendall(rest)
        assert (b"408" in read_all(connection)) == (rest == b"G")


@pytest.mark.usefixtures("short")
def test_a_kept_connection_may_rest(found: Serving) -> None:
    with found.socket() as connection:
        assert is_answered(connection)
        with found.socket() as other:
            assert read_all(other) == b""
        assert is_answered(connection)


def test_a_kept_connection_that_rests_for_too_long_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "KEEP_ALIVE_SECONDS", 1)
    with serving() as found, found.socket() as connection:
        assert is_answered(connection)
        assert read_all(connection) == b""


@pytest.mark.usefixtures("short")
def test_a_body_that_was_not_asked_for_ends_too(found: Serving) -> None:
    with found.socket() as connection:
        connection.sendall(POST % b"/")
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1") == 1
    assert answers.endswith(b"ok")


@pytest.mark.usefixtures("short")
def test_a_caller_who_does_not_take_its_answer_is_cut(found: Serving) -> None:
    with found.socket() as connection:
        connection.sendall(HEAD.replace(b"/ ", b"/large ", 1) + b"\r\n")
        wait_until(lambda: len(found.server.server_state.connections) == 0, after=1)
        assert len(read_all(connection)) < LARGE_BYTES


@pytest.mark.usefixtures("short")
def test_a_caller_who_takes_its_answer_slowly_gets_it(found: Serving) -> None:
    with found.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        connection.sendall(HEAD.replace(b"/ ", b"/large ", 1) + b"\r\n")
        received = 0
        for _ in during(4 * SHORT_SECONDS):
            received += len(connection.recv(65536))
            time.sleep(0.01)
        while received < LARGE_BYTES:
            data = connection.recv(1 << 20)
            assert data
            received += len(data)


@pytest.mark.usefixtures("few")
def test_a_silent_connection_makes_room_for_a_new_one(found: Serving) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(found.socket()) for _ in range(3)]
        assert is_answered(stack.enter_context(found.socket()))
        # All came within one turn of the loop: any of them may be the oldest.
        assert sorted(map(is_answered, silent)) == [False, True, True]


@pytest.mark.usefixtures("few")
def test_one_address_does_not_take_every_connection(found: Serving) -> None:
    with ExitStack() as stack:
        used = [stack.enter_context(found.socket()) for _ in range(3)]
        assert all(is_answered(one) for one in used)
        refused = stack.enter_context(found.socket())
        refused.sendall(HEAD + b"\r\n")
        text = read_all(refused)
        assert last_answer(text)[0] == 503
        assert b"Retry-After: " in text
        assert is_answered(stack.enter_context(found.socket("127.0.0.2")))
        assert all(is_answered(one) for one in used)


@pytest.mark.usefixtures("few")
def test_there_are_never_more_connections_than_the_total(found: Serving) -> None:
    with ExitStack() as stack:
        hosts = [f"127.0.0.{2 + number // 3}" for number in range(6)]
        used = [stack.enter_context(found.socket(host)) for host in hosts]
        assert all(is_answered(one) for one in used)
        assert not is_answered(stack.enter_context(found.socket("127.0.0.9")))
        used.pop().close()
        wait_until(lambda: len(found.server.server_state.connections) == 5)
        assert is_answered(stack.enter_context(found.socket("127.0.0.9")))


def test_half_of_the_open_files_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 1024))
    assert bounded(2000).connections_max == 512
    assert bounded(64).connections_max == 64


def wait_until(condition: Any, *, after: float = 0) -> None:
    """Wait until it holds, at first for some seconds during which it may hold too early."""
    time.sleep(after)
    poll(condition, seconds=GIVE_UP_SECONDS, what="the server is as wanted", every=0.01)
