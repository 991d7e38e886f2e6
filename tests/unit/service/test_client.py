"""The progress client and the health check, against a small HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app import healthcheck
from app.client.__main__ import main
from app.client.sample import sample_request

SITE = {"done_tasks": 3, "failed_tasks": 1, "missing_inputs": 2}
RISK = {
    "risk_type": "drought",
    "integrated_risk": 61.25,
    "risk_level": "high",
    "scenario": "SSP585",
    "year": 2090,
}


def status(state: str) -> dict[str, Any]:
    ended = state in ("failed", "succeeded")
    failure = {"site_id": "seoul", "scenario": "SSP126", "year": 2030, "error": "ValueError: no"}
    return {
        "status": state,
        "total_tasks": 4,
        "done_tasks": 3,
        "failed_tasks": 1,
        "finished_at": "2030-01-01T00:00:00Z" if ended else None,
        "sites": [{"site_id": "seoul", **SITE}],
        "failures": [failure] if state == "failed" else [],
    }


class Server(ThreadingHTTPServer):
    """Answers in turn what `answers` holds; the last answer stays."""

    answers: list[tuple[int, dict[str, Any]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path.endswith("/summary"):
            site = {"site_id": "seoul", "mean_final_aal": 0.0123, "mean_expected_loss": 12345.6}
            return self.answer(200, {"sites": [{**site, "highest_risk": RISK}]})
        answers = self.server.answers
        return self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(202, {"assessment_id": "abc"})

    def answer(self, code: int, body: dict[str, Any]) -> None:
        self.send_response(code)
        if code == 503:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def test_a_succeeded_assessment_is_shown_as_a_table(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(200, status("running")), (503, {}), (200, status("succeeded"))]
    assert main([server.url]) == 0
    output = capsys.readouterr()
    assert "drought" in output.out
    assert "12,346" in output.out
    assert "results?format=csv" in output.out
    assert "4/4 tasks" in output.err


def test_a_failed_assessment_says_which_task_and_exits_1(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(200, status("failed"))]
    assert main([server.url]) == 1
    assert "seoul SSP126 2030: ValueError: no" in capsys.readouterr().out


def test_an_assessment_that_does_not_end_is_given_up(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(200, status("running"))]
    assert main([server.url, "--timeout-seconds", "0.1"]) == 1
    assert "did not end in time" in capsys.readouterr().err


def test_an_api_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:9", "--timeout-seconds", "0.1"]) == 1
    assert "is the api up" in capsys.readouterr().err


def test_an_error_answer_is_shown(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [(404, {"error": {"code": "not_found"}})]
    assert main([server.url]) == 1
    assert "not_found" in capsys.readouterr().err


def test_the_sample_is_2560_tasks() -> None:
    request = sample_request()
    years = request["years"]["to"] - request["years"]["from"] + 1
    assert len(request["sites"]) * len(request["scenarios"]) * years == 2560


def test_the_health_check_tells_2xx_from_the_rest(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [(200, {}), (503, {"why": "no pool"})]
    assert healthcheck.main([server.url + "/health/ready"]) == 0
    assert healthcheck.main([server.url + "/health/ready"]) == 1
    assert "no pool" in capsys.readouterr().err


def test_once_ready_the_health_check_asks_whether_the_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers = iter(["not yet", None, "hangs", None])

    def check(url: str) -> str | None:
        asked.append(url)
        return next(answers)

    monkeypatch.setattr(healthcheck, "check", check)
    marker = tmp_path / "was-ready"
    codes = [healthcheck.main(["READY", "LIVE"], marker) for _ in range(4)]
    assert codes == [1, 0, 1, 0]
    assert asked == ["READY", "READY", "LIVE", "LIVE"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "ftp://host/", "nonsense"])
def test_the_health_check_fails_on_what_it_cannot_reach(url: str) -> None:
    assert healthcheck.main([url]) == 1
