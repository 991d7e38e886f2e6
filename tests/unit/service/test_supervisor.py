"""The api's first process: one serving process, replaced without a gap, or kept."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fix_stack import poll

MODULE = "tests.unit.service.serving_child"
SECONDS = 20.0
PROGRAM = """
import sys
from app.api import supervisor
supervisor.READY_SECONDS_MAX = float(sys.argv[2])
listener, _, module, log_format = sys.argv[1:]
sys.exit(supervisor.Supervisor(int(listener), module=module, log_format=log_format).run())
"""


@dataclass
class Running:
    """A supervisor, the port of its socket, and what its children leave behind."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def ask(self) -> str:
        """Return the number of the process that answers a new connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as connection:
            return connection.recv(16).decode()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        poll(condition, seconds=SECONDS, what=what, every=0.02)

    def started(self) -> int:
        """Return how many processes were started."""
        turns = self.folder / "turns"
        return len(turns.read_text()) if turns.exists() else 0

    def end(self) -> tuple[int, str]:
        """Stop it; return its exit code and its log."""
        self.process.send_signal(signal.SIGTERM)
        log, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, log


@contextmanager
def supervised(
    folder: Path, *behaviours: str, ready_seconds: float = SECONDS, log_format: str = "json"
) -> Iterator[Running]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # As a container's start leaves it; the first child listens anew.
        listener.listen(16)
        listener.set_inheritable(True)
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                str(listener.fileno()),
                str(ready_seconds),
                MODULE,
                log_format,
            ],
            env={
                **os.environ,
                "BEHAVIOURS": ",".join(behaviours),
                "TURNS": str(folder / "turns"),
                "ANSWER": str(folder / "answer"),
            },
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        port = int(listener.getsockname()[1])
    try:
        yield Running(process, port, folder)
    finally:
        process.kill()
        process.wait()


def test_a_successor_takes_over_and_the_first_ends(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves") as running:
        assert running.ask() == "0"
        running.process.send_signal(signal.SIGHUP)
        # Both take connections until the first has heard that the second serves.
        running.until(
            lambda: {running.ask() for _ in range(20)} == {"1"}, "only the second process answers"
        )
        code, log = running.end()
    assert code == 0
    assert log.count("process ended") == 2


def test_connections_wait_and_are_never_refused_meanwhile(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves") as running:
        running.ask()
        answers = []
        for number in range(60):
            if number % 20 == 5:
                running.process.send_signal(signal.SIGHUP)
            answers.append(running.ask())
            time.sleep(0.02)
    assert all(answers)


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("fails", "no database"), ("hangs", "not ready within")]
)
def test_a_successor_that_is_not_ready_is_ended_and_the_first_goes_on(
    tmp_path: Path, behaviour: str, reason: str
) -> None:
    with supervised(tmp_path, "serves", behaviour, ready_seconds=1.0) as running:
        running.ask()
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.started() == 2, "a second process is started")
        time.sleep(1.5)
        assert {running.ask() for _ in range(10)} == {"0"}
        code, log = running.end()
    assert code == 0
    assert reason in log


def test_who_asks_for_a_restart_hears_why_it_failed(tmp_path: Path) -> None:
    with supervised(tmp_path, "asks", "fails") as running:
        running.until((tmp_path / "answer").exists, "the first process has its answer")
        running.until(lambda: (tmp_path / "answer").read_text() != "", "the answer is written")
        assert (tmp_path / "answer").read_text() == "('refused', 'no database')"
        assert running.ask() == "0"


def test_who_asks_for_a_restart_hears_that_it_was_done(tmp_path: Path) -> None:
    with supervised(tmp_path, "asks", "serves") as running:
        running.until(lambda: running.ask() == "1", "the second process answers")
        assert (tmp_path / "answer").read_text() == "('restarted', '')"


def test_a_process_that_dies_while_it_serves_is_replaced(tmp_path: Path) -> None:
    with supervised(tmp_path, "dies", "serves") as running:
        running.until(lambda: running.ask() == "1", "the second process answers")
        assert running.process.poll() is None


def test_a_first_process_that_cannot_serve_ends_the_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path, "fails") as running:
        assert running.process.wait(timeout=SECONDS) == 3
    assert running.started() == 1


def test_a_second_restart_during_a_first_is_refused(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", "hangs", ready_seconds=5.0) as running:
        running.ask()
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.started() == 2, "a second process is started")
        running.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        _, log = running.end()
    assert running.started() == 2
    assert "another restart is under way" in log


def test_its_log_is_text_where_the_settings_say_so(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", log_format="text") as running:
        running.until(lambda: running.started() == 1, "a process")
        _, log = running.end()
    assert " info     app.api.supervisor: process started pid=" in log
    assert "{" not in log
