"""The api's first process: a serving process in each slot, replaced without a gap, or kept."""

from __future__ import annotations

import json
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

from app.api import channel
from app.api.serve import Handover
from tests.fix_stack import poll

MODULE = "tests.unit.service.serving_child"
SECONDS = 20.0
PROGRAM = """
import sys
from pathlib import Path
from app.api import supervisor
supervisor.READY_SECONDS_MAX = float(sys.argv[2])
supervisor.AGAIN_SECONDS = 0.2
listener, _, settings, module, form = sys.argv[1:]
served = supervisor.Supervisor([int(listener)], Path(settings), module=module, log_format=form)
sys.exit(served.run())
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

    def set_processes(self, count: int) -> None:
        """Have the settings file say another number."""
        (self.folder / "api.json").write_text(json.dumps({"processes": count}))

    def answering(self) -> set[str]:
        """Return the numbers of the processes that answer."""
        return {self.ask() for _ in range(20)}

    def retired(self) -> list[str]:
        """Return how each process that retired was told to."""
        file = self.folder / "retired"
        return file.read_text().splitlines() if file.exists() else []

    def answer(self) -> str:
        """Return what the process was told that asked for a restart."""
        file = self.folder / "answer"
        self.until(lambda: file.exists() and file.read_text() != "", "it has its answer")
        return file.read_text()

    def shared(self) -> list[str]:
        """Return the names of the files that processes share metrics in."""
        folder = Path((self.folder / "shared").read_text())
        return sorted(path.name for path in folder.iterdir())

    def end(self) -> tuple[int, str]:
        """Stop it; return its exit code and its log."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS), self.log()

    def log(self) -> str:
        """Return what it has logged."""
        return (self.folder / "log").read_text()

    def until_ready(self, count: int) -> None:
        """Wait until so many processes are ready; then it has read the settings too."""
        self.until(lambda: self.log().count("process is ready") >= count, f"{count} are ready")


@contextmanager
def supervised(
    folder: Path,
    *behaviours: str,
    processes: int = 1,
    ready_seconds: float = SECONDS,
    log_format: str = "json",
) -> Iterator[Running]:
    settings = folder / "api.json"
    settings.write_text(json.dumps({"processes": processes}))
    with socket.socket() as listener, (folder / "log").open("w") as log:
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
                str(settings),
                MODULE,
                log_format,
            ],
            env={
                **os.environ,
                "BEHAVIOURS": ",".join(behaviours),
                "TURNS": str(folder / "turns"),
                "ANSWER": str(folder / "answer"),
                # It is killed at the end and leaves there what it would remove.
                "TMPDIR": str(folder),
            },
            pass_fds=[listener.fileno()],
            stdout=log,
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
        running.until(lambda: running.answering() == {"1"}, "only the second process answers")
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
    with supervised(tmp_path, "serves", behaviour, ready_seconds=5.0) as running:
        running.ask()
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.started() == 2, "a second process is started")
        running.until(lambda: reason in running.log(), reason)
        assert {running.ask() for _ in range(10)} == {"0"}
        code, _ = running.end()
    assert code == 0


def test_who_asks_for_a_restart_hears_why_it_failed(tmp_path: Path) -> None:
    with supervised(tmp_path, "asks", "fails") as running:
        assert running.answer() == "('refused', 'no database')"
        assert running.ask() == "0"


def test_who_asks_for_a_restart_hears_that_it_was_done(tmp_path: Path) -> None:
    with supervised(tmp_path, "asks", "serves") as running:
        running.until(lambda: running.ask() == "1", "the second process answers")
        assert running.answer() == "('restarted', '')"


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


def most_at_once(log: str) -> int:
    """Return the most processes that a supervisor's log has running at one moment."""
    most = now = 0
    for event in (json.loads(line)["event"] for line in log.splitlines()):
        now += {"process started": 1, "process ended": -1}.get(event, 0)
        most = max(most, now)
    return most


def test_every_slot_answers_on_the_one_socket(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", processes=3) as running:
        running.until(lambda: running.answering() == {"0", "1", "2"}, "three processes answer")
        code, log = running.end()
    assert code == 0
    assert {json.loads(line)["process"] for line in log.splitlines()} == {1, 2, 3}


def test_all_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"0", "1"}, "two processes answer")
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"2", "3"}, "two new processes answer")
        code, log = running.end()
    assert code == 0
    assert most_at_once(log) == 3


def test_a_process_that_asks_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    with supervised(tmp_path, "asks", "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"1", "2"}, "one process is new")
        assert running.answer() == "('restarted', '')"


def test_a_restart_takes_the_number_of_slots_from_the_settings(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves") as running:
        running.until_ready(1)
        running.set_processes(3)
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"1", "2", "3"}, "two slots more")
        running.set_processes(1)
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"4"}, "one slot is left")
        running.until(lambda: len(running.retired()) == 4, "four processes have retired")
        assert sorted(running.retired()) == ["", "", "surplus", "surplus"]
        code, log = running.end()
    assert code == 0
    assert most_at_once(log) == 4


def test_a_process_that_comes_back_takes_the_number_of_slots_too(tmp_path: Path) -> None:
    with supervised(tmp_path, "dies", "serves") as running:
        running.until(lambda: running.started() == 1, "the first was started")
        running.set_processes(2)
        running.until(lambda: running.answering() == {"1", "2"}, "both slots have a process")


def test_an_additional_process_that_cannot_serve_is_tried_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", "serves", "fails", "serves") as running:
        running.until_ready(1)
        running.set_processes(2)
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"1", "3"}, "both slots have a process")


def test_a_restart_with_settings_that_cannot_be_read_keeps_the_number(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"0", "1"}, "two processes answer")
        (tmp_path / "api.json").write_text("{")
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"2", "3"}, "two new processes answer")


def test_a_process_that_dies_is_replaced_while_the_others_answer(tmp_path: Path) -> None:
    with supervised(tmp_path, "dies", "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"1", "2"}, "the slot has a new process")
        assert running.process.poll() is None


def test_a_slot_whose_process_cannot_come_back_is_tried_again_while_others_serve(
    tmp_path: Path,
) -> None:
    with supervised(tmp_path, "dies", "serves", "fails", "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"1", "3"}, "the slot has a process again")
        assert running.process.poll() is None


@pytest.mark.parametrize("first", ["serves", "is slow"])
def test_one_of_several_first_processes_that_cannot_serve_is_tried_again(
    tmp_path: Path, first: str
) -> None:
    with supervised(tmp_path, first, "fails", "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"0", "2"}, "both slots have a process")
        assert running.process.poll() is None


@pytest.mark.parametrize("first", ["fails", "fails late"])
def test_a_start_that_fails_in_every_slot_ends_the_supervisor(tmp_path: Path, first: str) -> None:
    with supervised(tmp_path, first, "fails", processes=2) as running:
        assert running.process.wait(timeout=SECONDS) == 3
    assert running.started() == 2


def test_all_stay_when_the_first_replacement_fails(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", "serves", "fails", "serves", processes=2) as running:
        running.until_ready(2)
        running.set_processes(1)
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.started() == 3, "a third process is started")
        running.until(lambda: running.answering() == {"0", "1"}, "the two still answer")
        _, log = running.end()
    assert running.started() == 3
    assert log.count("not restarted; the old process goes on") == 2


def test_what_the_dead_have_counted_stays_and_their_seats_are_taken_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "serves", processes=2) as running:
        running.until(lambda: running.answering() == {"0", "1"}, "two processes answer")
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"2", "3"}, "two new processes answer")
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.answering() == {"4", "5"}, "two newer processes answer")
        counters = [f"counter_{seat}.db" for seat in range(3)]
        running.until(lambda: len(running.shared()) == 5, "the retired have ended")
        assert [name for name in running.shared() if name.startswith("counter")] == counters
        folder = Path((tmp_path / "shared").read_text())
        running.end()
    assert not folder.exists()


def test_a_process_hears_whether_another_has_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: ended.append(number))
    ours, theirs = channel.pair()
    heard: list[bool] = []
    Handover(theirs).listen(heard.append)
    with ours:
        channel.send(ours, channel.RETIRE)
        channel.send(ours, channel.RETIRE, channel.SURPLUS)
    poll(lambda: ended, seconds=SECONDS, what="a process that is left ends", every=0.02)
    assert heard == [True, False]
