"""HTTP that no library sends, and requests that a program makes of the published document."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import command
from tests.faults.oracle import check_nothing_left
from tests.fix_api import ASSESSMENTS, Api
from tests.fix_sql import Sql
from tests.fix_stack import REPOSITORY

EXAMPLES = 30
# Few of the places that it makes up lie in the known area; without bodies there would be none.
ACCEPTED_MIN = 5
COUNT = "SELECT count(*) FROM risk.assessments"
POST = f"POST {ASSESSMENTS} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n".encode()
CHUNKED = b"2\r\n{}\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n"
HOSTILE = {
    "both lengths": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "both lengths, the other way round": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "an endless length": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "two codings": POST
    + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKED,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "an endless chunk": POST
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"F" * 17
    + b"\r\n{}\r\n0\r\n\r\n",
    "a negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "more than the chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
    "a folded header": POST + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "NUL in a header": LIVE + b"Host: here\r\nX: a\0b\r\n\r\n",
    "a control character in the target": b"GET /health/live\x01 HTTP/1.1\r\nHost: here\r\n\r\n",
    "no host": LIVE + b"\r\n",
    "two hosts": LIVE + b"Host: here\r\nHost: there\r\n\r\n",
    "line ends of one byte": b"GET /health/live HTTP/1.1\nHost: here\n\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a proxy's request": b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: here\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "an endless method": b"X" * 20_000 + b" / HTTP/1.1\r\n\r\n",
    "a parameter twice": f"GET {ASSESSMENTS}/x/results?limit=1&limit=2 HTTP/1.1\r\n".encode()
    + b"Host: here\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_request_that_can_be_read_in_two_ways_is_answered_once_with_400(
    settings: dict[str, str], name: str
) -> None:
    received = b""
    with socket.create_connection(("127.0.0.1", int(settings["API_PORT"])), 10) as connection:
        connection.sendall(HOSTILE[name])
        while b'"}' not in received and (data := connection.recv(65536)):
            received += data
        # What follows on a connection whose end of a request is not sure belongs to nobody.
        connection.settimeout(0.3)
        with suppress(TimeoutError, ConnectionResetError):
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.slow
def test_requests_made_of_the_openapi_document_pass_every_check(
    api: Api, sql: Sql, tmp_path: Path
) -> None:
    before = int(sql.value(COUNT))
    done = command.run(
        *(sys.executable, "-m", "schemathesis.cli"),
        f"--config-file={REPOSITORY / 'tests' / 'stack' / 'schemathesis.toml'}",
        *("run", f"{api.http.base_url}/openapi.json", "--no-color", "--seed=1"),
        *("--phases=examples,coverage,fuzzing,stateful", f"--max-examples={EXAMPLES}"),
        # Above the deadline of a request, and the length of an event stream.
        *("--request-timeout=30", "--continue-on-failure"),
        # It keeps what it has found where it is run.
        cwd=tmp_path,
    )
    assert done.exit_code == 0, done.text
    assert "No issues found" in done.stdout
    assert int(sql.value(COUNT)) - before >= ACCEPTED_MIN
    check_nothing_left(sql)
