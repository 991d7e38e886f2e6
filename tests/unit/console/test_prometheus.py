"""What the page shows of Prometheus, and that it is gone after two seconds at most."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import httpx
import pytest

from infra.console import prometheus
from infra.console.path import point
from infra.console.prometheus import LINES, Prometheus
from infra.ops.status.sample import Sample, Server


@contextmanager
def answering(data: Any, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Answer every request with the same data; give the address, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = data(self.path) if callable(data) else data
            body = json.dumps({"status": "success", "data": found}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def alert(name: str, severity: str, state: str = "firing") -> dict[str, Any]:
    return {
        "labels": {"alertname": name, "severity": severity},
        "annotations": {"summary": f"{name} is on"},
        "state": state,
        "activeAt": "2026-01-01T10:00:00.123456789Z",
    }


def test_what_fires_is_shown_the_worst_first_and_nothing_else() -> None:
    rules = [
        alert("Slow", "warning"),
        alert("Watchdog", "none"),
        alert("Down", "critical"),
        alert("Soon", "critical", "pending"),
    ]
    with answering({"alerts": rules}) as (url, _):
        found = Prometheus(url).alerts()["alerts"]
    assert [one["name"] for one in found] == ["Down", "Slow"]
    assert found[0]["since"] == "2026-01-01T10:00:00Z"


def values(path: str) -> dict[str, Any]:
    """Return a matrix with a value at the first and at the last step."""
    asked = parse_qs(urlparse(path).query)
    start, end = int(asked["start"][0]), int(asked["end"][0])
    return {"result": [{"values": [[start, "1.5"], [end, "NaN"]]}]}


def test_the_hour_has_the_lines_of_the_console_s_own_points() -> None:
    with answering(values) as (url, asked):
        hour = Prometheus(url).hour()
    assert list(hour["lines"]) == list(LINES) == list(point(Sample((), (), Server())))
    assert len(asked) == len(LINES)
    assert hour["times"][-1] - hour["times"][0] == pytest.approx(prometheus.HOUR_SECONDS)
    for line in hour["lines"].values():
        assert len(line) == len(hour["times"])
        # 0/0 has no place in JSON.
        assert (line[0], line[-1]) == (1.5, None)
    json.dumps(hour, allow_nan=False)


def test_a_line_without_data_is_a_line_of_gaps() -> None:
    with answering({"result": []}) as (url, _):
        assert set(Prometheus(url).hour()["lines"]["sessions"]) == {None}


def test_without_prometheus_there_is_an_error_that_says_so() -> None:
    with pytest.raises(httpx.HTTPError):
        Prometheus("http://127.0.0.1:1").hour()
    with answering({}, 503) as (url, _), pytest.raises(httpx.HTTPError):
        Prometheus(url).alerts()


def test_a_prometheus_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "SECONDS", 0.2)
    released = threading.Event()

    def hang(_path: str) -> dict[str, Any]:
        released.wait(20)
        return {"alerts": []}

    with answering(hang) as (url, _):
        try:
            with pytest.raises(httpx.TimeoutException):
                Prometheus(url).alerts()
        finally:
            released.set()
