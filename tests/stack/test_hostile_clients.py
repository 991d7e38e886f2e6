"""Clients that never finish a request, or ask for much at once, beside clients that do not."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.fix_api import ASSESSMENTS, SEOUL, Api, assessment_body
from tests.fix_faults import hold
from tests.fix_stack import Stack, during, poll, run_in

ENDLESS_CLIENTS = 10
SLOW_CLIENTS = 200
SILENT_CLIENTS = 20
HOSTILE_SECONDS = 15.0
SLOW_SECONDS_MAX = 60
# What these connections, or 40 callers of files, may cost, with what assessments leave in Python.
GROWTH_BYTES_MAX = 24 * 1024 * 1024
DOWNLOADS = 40
DOWNLOAD_SITES = 6
SITE_ROWS = 4 * 80 * 9
# What 40 callers who take nothing may cost: a piece each, and what their connections hold.
PIECES_BYTES_MAX = 40 * 1024 * 1024
HEAD = b"GET /health/live HTTP/1.1\r\nHost: here\r\n"
HALF = b"POST /api/v1/site-assessments HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nhalf"
Connect = Callable[[], socket.socket]


def send_endlessly(connect: Connect, ending: threading.Event) -> int:
    """Send headers without an end, again and again; return how often that was refused."""
    refused = 0
    while not ending.is_set():
        with connect() as connection:
            try:
                connection.sendall(HEAD)
                while not ending.is_set():
                    connection.sendall(b"a: " + b"x" * 60_000 + b"\r\n")
            except OSError:
                refused += 1
    return refused


def send_slowly(connect: Connect) -> list[bytes]:
    """Send a byte a second on every connection; return the start of every answer."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connect()) for _ in range(SLOW_CLIENTS)]
        answers: list[bytes] = []
        request = HEAD + b"a: " + b"x" * 1000
        for number in range(SLOW_SECONDS_MAX):
            for connection in list(connections):
                try:
                    connection.setblocking(False)
                    answers.append(connection.recv(16))
                except BlockingIOError:
                    # Closed meanwhile: its answer is there in the next round.
                    with suppress(OSError):
                        connection.sendall(request[number : number + 1])
                    continue
                except OSError:
                    answers.append(b"")
                connections.remove(connection)
            if not connections:
                break
            hold(1)
    return answers


def wait_in_silence(connect: Connect) -> list[bytes]:
    """Send nothing, or half a request; return the start of what each gets until it is closed."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connect()) for _ in range(SILENT_CLIENTS)]
        for connection in connections[SILENT_CLIENTS // 2 :]:
            connection.sendall(HALF)
        for connection in connections:
            connection.settimeout(HOSTILE_SECONDS)
        return [connection.recv(16) for connection in connections]


@contextmanager
def hostile(connect: Connect) -> Iterator[list[bytes]]:
    """Have them all for the length of the block; then the slow ones' answers are there."""
    ending = threading.Event()
    answers: list[bytes] = []
    with ThreadPoolExecutor(ENDLESS_CLIENTS + 2) as threads:
        endless = [threads.submit(send_endlessly, connect, ending) for _ in range(ENDLESS_CLIENTS)]
        slow = threads.submit(send_slowly, connect)
        silent = threads.submit(wait_in_silence, connect)
        try:
            yield answers
        finally:
            ending.set()
        assert all(one.result() > 0 for one in endless)
        answers += slow.result()
        assert silent.result() == [b""] * (SILENT_CLIENTS // 2) + [b"HTTP/1.1 408 Req"] * (
            SILENT_CLIENTS // 2
        )


def memory_bytes(stack: Stack) -> int:
    """Return what the api's processes hold, without the kernel's caches.

    Those of a health check, or of this look, are no children of the first.
    """
    script = (
        "for one in 1 $(cat /proc/1/task/1/children); do cat /proc/$one/status; done"
        " | awk '/^VmRSS/ {sum += $2} END {print sum * 1024}'"
    )
    code, text = run_in(stack.container("api"), ["sh", "-c", script])
    assert code == 0, text
    return int(text)


def test_endless_and_slow_clients_leave_others_and_the_memory_alone(
    stack: Stack, api: Api, settings: dict[str, str]
) -> None:
    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(settings["API_PORT"])), 10)

    restarts = stack.container("api").attrs["RestartCount"]
    before = largest = memory_bytes(stack)
    served = 0
    with hostile(connect) as answers:
        for _ in during(HOSTILE_SECONDS):
            # A new connection each time: the kept one of `api` would see less.
            with httpx.Client(base_url=api.http.base_url, timeout=10) as fresh:
                assert fresh.get("/health/ready").status_code == 200
            assert api.run(assessment_body(years={"from": 2021, "to": 2021}))["failed_tasks"] == 0
            served += 1
            largest = max(largest, memory_bytes(stack))
    assert served > 0
    assert len(answers) == SLOW_CLIENTS
    assert set(answers) == {b"HTTP/1.1 408 Req"}
    assert largest - before < GROWTH_BYTES_MAX
    container = stack.container("api")
    assert container.attrs["RestartCount"] == restarts
    assert stack.health(container) == "healthy"


@pytest.fixture(scope="module")
def download(api: Api) -> str:
    """Return the path of a CSV file of 3 MB."""
    places = [{**SEOUL, "site_id": f"site-{number}"} for number in range(DOWNLOAD_SITES)]
    assessment_id = api.run(assessment_body(*places))["assessment_id"]
    return f"{ASSESSMENTS}/{assessment_id}/results?format=csv"


def whole_or_refused(answer: httpx.Response) -> bool:
    """Return True for a file with every row, False for a refusal that says when to come again."""
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) > 0
        return False
    assert answer.status_code == 200
    assert answer.text.count("\r\n") == 1 + DOWNLOAD_SITES * SITE_ROWS
    return True


def test_many_downloads_at_once_are_whole_and_leave_the_memory_alone(
    stack: Stack, api: Api, download: str
) -> None:
    def get() -> bool:
        # A cut answer raises.
        return whole_or_refused(httpx.get(f"{api.http.base_url}{download}", timeout=60))

    restarts = stack.container("api").attrs["RestartCount"]
    assert get()
    before = largest = memory_bytes(stack)
    with ThreadPoolExecutor(DOWNLOADS) as threads:
        files = [threads.submit(get) for _ in range(DOWNLOADS)]
        while not all(one.done() for one in files):
            largest = max(largest, memory_bytes(stack))
            # It waits for its turn at the pool as they do, and is answered within its deadline.
            assert api.http.get(download.partition("/results")[0]).status_code == 200
    assert any(one.result() for one in files)
    assert api.http.get("/health/ready").status_code == 200
    assert largest - before < GROWTH_BYTES_MAX
    assert stack.container("api").attrs["RestartCount"] == restarts


def test_callers_who_take_nothing_hold_no_connection_and_little_memory(
    stack: Stack, api: Api, settings: dict[str, str], download: str
) -> None:
    places = int(settings["API_THREADS"])
    # Docker's proxy, behind the published port, would take the files in their stead.
    networks = stack.container("api").attrs["NetworkSettings"]["Networks"]
    address = networks[f"{stack.project}_edge"]["IPAddress"]
    before = memory_bytes(stack)
    with ExitStack() as opened:
        for _ in range(places - 1):
            connection = opened.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            connection.connect((address, 8000))
            connection.sendall(f"GET {download} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            connection.settimeout(30)
            assert connection.recv(12) == b"HTTP/1.1 200"
        poll(
            lambda: api.http.get("/health/ready").json()["pool"]["in_use"] == 0,
            seconds=5,
            what="every connection given back",
        )
        assert memory_bytes(stack) - before < PIECES_BYTES_MAX
        assert whole_or_refused(api.http.get(download))


def test_callers_who_reset_in_the_middle_of_an_answer_leave_nothing_behind(
    stack: Stack, api: Api, settings: dict[str, str], download: str
) -> None:
    before = memory_bytes(stack)
    with ExitStack() as opened:
        place = ("127.0.0.1", int(settings["API_PORT"]))
        connections = [
            opened.enter_context(socket.create_connection(place, 60)) for _ in range(DOWNLOADS)
        ]
        for connection in connections:
            connection.sendall(f"GET {download} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            # Its end is a reset then, not the end of a stream.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for connection in connections:
            assert connection.recv(12).startswith(b"HTTP/1.1 ")
    # As many places as answers with results have: none is still held.
    with ThreadPoolExecutor(DOWNLOADS) as threads:
        again = list(threads.map(lambda _: httpx.get(f"{api.http.base_url}{download}"), range(4)))
    assert all(whole_or_refused(one) for one in again)
    poll(
        lambda: api.http.get("/health/ready").json()["pool"]["in_use"] == 0,
        seconds=5,
        what="every connection given back",
    )
    assert memory_bytes(stack) - before < GROWTH_BYTES_MAX


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_twenty_megabytes_of_headers_are_431(
    stack: Stack, settings: dict[str, str], end: bytes
) -> None:
    rest = memoryview(HEAD + b"a: b\r\n" * (20_000_000 // 6) + end)
    before = memory_bytes(stack)
    with socket.create_connection(("127.0.0.1", int(settings["API_PORT"])), 10) as connection:
        # As a client that looks for an answer while it sends.
        while not select.select([connection], [], [], 0)[0]:
            rest = rest[connection.send(rest) :]
        assert connection.recv(16).startswith(b"HTTP/1.1 431")
    assert memory_bytes(stack) - before < GROWTH_BYTES_MAX
