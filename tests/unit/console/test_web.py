"""The console over HTTP: one look for all pages, the newest for each, and no more than fit."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.console.board import Board, Part
from infra.console.web import create_app, listening, make_server
from tests.fix_stack import REPOSITORY, poll

PAGE = REPOSITORY / "infra" / "console" / "page"


class Look:
    """A look that counts, and fails or waits on demand."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.count = 0
        self.at_once = 0
        self.fault: Exception | None = None

    def __call__(self) -> dict[str, Any]:
        self.count += 1
        self.at_once += 1
        assert self.at_once == 1, "two looks at once"
        try:
            if self.fault:
                raise self.fault
            return {"number": self.count, "filler": "x" * self.size}
        finally:
            self.at_once -= 1


class Console:
    """The application on a port of its own, with one part that is looked for all the time."""

    def __init__(self, url: str, board: Board, look: Look) -> None:
        self.url, self.board, self.look = url, board, look

    @contextmanager
    def reading(self) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """Open the stream and give its events, by name."""
        with httpx.stream("GET", f"{self.url}/events", timeout=20) as answer:
            assert answer.status_code == 200, answer.read()
            yield events(answer)


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


MakeConsole = Callable[..., Console]


@pytest.fixture
def make_console() -> Iterator[MakeConsole]:
    """Return a maker of consoles that run in a thread until the test is over."""
    with ExitStack() as stack:

        def make(
            look: Look | None = None,
            *,
            readers_max: int = 200,
            rest_seconds: float | None = None,
            page: Path = PAGE,
        ) -> Console:
            look = look or Look()
            board = Board(lambda: {"times": [], "lines": {}}, readers_max=readers_max)
            part = Part("path", look, 0.02, rest_seconds)
            server = make_server(create_app(board, [part], page), readers_max=readers_max)
            opened = stack.enter_context(closing(listening("127.0.0.1", 0, stuck_ms=500)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(20)

            stack.callback(stop)
            poll(lambda: server.started, seconds=20, what="the console serves")
            return Console(f"http://127.0.0.1:{opened.getsockname()[1]}", board, look)

        yield make


def test_a_reader_gets_the_history_first_and_then_each_look(make_console: MakeConsole) -> None:
    with make_console().reading() as found:
        assert next(found)[0] == "history"
        numbers = [document["number"] for name, document in (next(found) for _ in range(5))]
    assert numbers == sorted(set(numbers))


def test_a_hundred_pages_share_one_look_at_a_time(make_console: MakeConsole) -> None:
    console = make_console()
    with ExitStack() as stack:
        pages = [stack.enter_context(console.reading()) for _ in range(100)]
        for page in pages:
            assert [next(page)[0] for _ in range(3)] == ["history", "path", "path"]
        before, (_, document) = console.look.count, next(pages[0])
        assert document["number"] <= console.look.count
        assert console.board.readers == 100
        assert before > 0
    poll(lambda: console.board.readers == 0, seconds=20, what="the pages are gone")


def test_one_page_more_than_fit_is_told_so(make_console: MakeConsole) -> None:
    console = make_console(readers_max=2)
    with console.reading() as first, console.reading() as second:
        next(first), next(second)
        refused = httpx.get(f"{console.url}/events")
        assert refused.status_code == 503
        assert "2 pages are open" in refused.text
        assert refused.headers["Retry-After"]
    poll(lambda: not console.board.is_full, seconds=20, what="there is room again")
    with console.reading() as third:
        assert next(third)[0] == "history"


def test_a_page_that_takes_nothing_holds_up_nobody_and_is_ended(make_console: MakeConsole) -> None:
    console = make_console(Look(size=50_000))
    port = int(console.url.rpartition(":")[2])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        poll(lambda: console.board.readers == 1, seconds=20, what="the slow page is there")
        with console.reading() as found:
            next(found)
            numbers = [next(found)[1]["number"] for _ in range(100)]
            assert numbers[-1] - numbers[0] >= 99
            poll(lambda: console.board.readers == 1, seconds=30, what="the slow page is ended")
            next(found)


def test_a_look_that_fails_says_why_and_the_next_one_follows(make_console: MakeConsole) -> None:
    console = make_console()
    with console.reading() as found:
        next(found)
        console.look.fault = OSError("ops.json is gone")
        assert any(one.get("error") == "ops.json is gone" for _, one in found)
        console.look.fault = None
        assert any("number" in one for _, one in found)


def test_nobody_looks_for_what_nobody_reads(make_console: MakeConsole) -> None:
    console = make_console()
    poll(lambda: console.look.count == 1, seconds=20, what="the first look")
    with console.reading() as found:
        next(found), next(found)
    poll(lambda: console.board.readers == 0, seconds=20, what="the page is gone")
    at_rest = console.look.count
    httpx.get(f"{console.url}/health")
    assert console.look.count <= at_rest + 1


def test_at_rest_it_looks_on_for_the_history(make_console: MakeConsole) -> None:
    console = make_console(rest_seconds=0.05)
    poll(lambda: console.look.count > 3, seconds=20, what="looks without a reader")


def test_health_is_that_somebody_has_looked_lately(
    make_console: MakeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = make_console()
    url = f"{console.url}/health"
    poll(lambda: httpx.get(url).status_code == 200, seconds=20, what="it has looked")
    monkeypatch.setattr("infra.console.web.STALE_SECONDS", 0.0)
    assert httpx.get(url).status_code == 503


def test_every_answer_keeps_the_page_to_itself(make_console: MakeConsole) -> None:
    console = make_console()
    for path in ("/", "/console.css", "/health", "/not-there"):
        headers = httpx.get(f"{console.url}{path}").headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert "text/html" in httpx.get(console.url).headers["Content-Type"]


def test_another_site_s_name_is_refused(make_console: MakeConsole) -> None:
    console = make_console()
    assert httpx.get(console.url, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(console.url, headers={"Host": "localhost:8090"}).status_code == 200


@pytest.mark.parametrize("path", ["/../path.py", "/..%2fpath.py", "/%2e%2e/path.py"])
def test_only_the_page_s_own_files_are_served(make_console: MakeConsole, path: str) -> None:
    console = make_console()
    with closing(
        socket.create_connection(("127.0.0.1", int(console.url.rpartition(":")[2])))
    ) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert b" 404 " in raw.makefile("rb").readline()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(make_console: MakeConsole, method: str) -> None:
    console = make_console()
    for path in ("/", "/events", "/health"):
        assert httpx.request(method, f"{console.url}{path}").status_code == 405


def test_the_page_names_no_other_host() -> None:
    for file in PAGE.iterdir():
        if file.suffix in (".html", ".css", ".js") and not file.name.startswith("uPlot"):
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "//" not in text.replace("// ", ""), file.name


def test_a_jump_of_the_clock_is_no_time_of_the_page(
    make_console: MakeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = make_console()
    with console.reading() as found:
        next(found)
        before = next(found)[1]["at"]
        monkeypatch.setattr("time.time", lambda: 0.0)
        after = next(found)[1]["at"]
    assert 0 <= after - before < 20
