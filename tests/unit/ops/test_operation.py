"""An operation: its one document with exit code and reasons, its lock, its end by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.config.lock import LockHeldError, holder, operation_lock
from infra.ops.operation import (
    LIFELINE,
    EndedBySignalError,
    Operation,
    Request,
    operate,
)
from infra.ops.outcome import Exit, FailedError, RefusedError

Captured = pytest.CaptureFixture[str]


def document(capsys: Captured) -> dict[str, Any]:
    """Return what standard output holds, which must be one document and nothing else."""
    return dict(json.loads(capsys.readouterr().out))


def raising(error: BaseException) -> Callable[[Operation], None]:
    def work(operation: Operation) -> None:
        operation.say("begun")
        raise error

    return work


def test_all_that_was_done_is_in_the_document_and_progress_is_beside_it(
    tmp_path: Path, capsys: Captured
) -> None:
    def work(operation: Operation) -> None:
        operation.say("p1: restarting")
        operation.warn("p1: 2 client(s) stay")
        operation.warn("p1: 2 client(s) stay")
        operation.ask_host("replace-pgbouncer", "p1")
        operation.done("p1", "restarted", 1.23456)
        operation.note(paused_seconds=0.98765)
        operation.ends_as("all serve")

    request = Request(tmp_path, as_json=True)
    assert operate(request, "a test", work, paused_seconds=None) == Exit.OK
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed.pop("seconds") >= 0
    assert printed == {
        "operation": "a test",
        "exit_code": 0,
        "faults": [],
        "warnings": ["p1: 2 client(s) stay"],
        "steps": ["p1: restarting"],
        "processes": [{"process": "p1", "done": "restarted", "seconds": 1.235}],
        "paused_seconds": 0.988,
        "state": "all serve",
    }
    assert captured.err.splitlines() == [
        "p1: restarting",
        "warning: p1: 2 client(s) stay",
        "host: replace-pgbouncer p1",
    ]


def test_a_person_gets_progress_and_the_outcome_and_the_host_its_steps(
    tmp_path: Path, capsys: Captured
) -> None:
    def work(operation: Operation) -> None:
        operation.say("p1: restarting [not markup]")
        operation.ask_host("replace-pgbouncer", "p1")
        operation.ends_as("all serve")

    assert operate(Request(tmp_path), "a test", work) == Exit.OK
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["host: replace-pgbouncer p1", "all serve"]
    assert captured.err.splitlines() == ["p1: restarting [not markup]"]


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (RefusedError("is paused"), Exit.REFUSED, "refused: is paused"),
        (FailedError("it did not start"), Exit.FAILED, "it did not start"),
        (psycopg.OperationalError("gone\nmore"), Exit.FAILED, "a test: gone"),
        (OSError(28, "No space left on device"), Exit.FAILED, "a test: [Errno 28] No space left"),
        (EndedBySignalError("SIGTERM"), Exit.FAILED, "a test: ended by SIGTERM"),
    ],
)
def test_a_failure_is_a_document_with_the_reason(
    tmp_path: Path, capsys: Captured, error: BaseException, code: int, fault: str
) -> None:
    request = Request(tmp_path, as_json=True)
    assert operate(request, "a test", raising(error), paused_seconds=None) == code
    printed = document(capsys)
    assert printed["exit_code"] == code
    assert printed["faults"][0].startswith(fault)
    # What is always there, also where nothing came of it.
    assert (printed["steps"], printed["processes"], printed["paused_seconds"]) == (
        ["begun"],
        [],
        None,
    )


def test_a_failure_is_printed_for_a_person_on_standard_error(
    tmp_path: Path, capsys: Captured
) -> None:
    def work(operation: Operation) -> None:
        operation.fail(Exit.BAD_INPUT, "a.password: has 5 characters", "b.password: has 6")
        operation.ends_as("nothing was changed")

    assert operate(Request(tmp_path), "a test", work) == Exit.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "a.password: has 5 characters",
        "b.password: has 6",
        "nothing was changed",
    ]


def test_a_held_lock_is_a_document_that_names_its_holder(tmp_path: Path, capsys: Captured) -> None:
    with operation_lock(tmp_path, "apply"):
        code = operate(Request(tmp_path, as_json=True), "a test", raising(AssertionError()))
    printed = document(capsys)
    assert code == printed["exit_code"] == Exit.REFUSED
    assert printed["faults"][0].startswith("refused: apply in container")
    assert printed["steps"] == []


def test_a_directory_that_is_not_there_is_a_document(tmp_path: Path, capsys: Captured) -> None:
    request = Request(tmp_path / "none", as_json=True)
    assert operate(request, "a test", raising(AssertionError())) == Exit.FAILED
    assert "No such file or directory" in document(capsys)["faults"][0]


def test_a_signal_ends_the_work_and_not_the_document(tmp_path: Path, capsys: Captured) -> None:
    def work(operation: Operation) -> None:
        operation.done("p1", "restarted")
        signal.raise_signal(signal.SIGTERM)

    assert operate(Request(tmp_path, as_json=True), "a test", work) == Exit.FAILED
    printed = document(capsys)
    assert printed["faults"] == ["a test: ended by SIGTERM"]
    assert [one["process"] for one in printed["processes"]] == ["p1"]


HOLD = (
    "import sys, time; from pathlib import Path; from infra.config.lock import operation_lock\n"
    "with operation_lock(Path(sys.argv[1]), 'restart'):\n"
    "    print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Return another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_nobody_holds_a_lock_that_was_never_taken(tmp_path: Path) -> None:
    assert holder(tmp_path) is None


def test_the_second_is_refused_with_the_name_of_the_first(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    refused = r"refused: restart in container .* since 20"
    with other:
        with pytest.raises(LockHeldError, match=refused), operation_lock(tmp_path, "apply"):
            pass
        other.kill()


def test_a_lock_is_released_when_its_holder_is_killed(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with other:
        assert holder(tmp_path) is not None
        other.kill()
    with operation_lock(tmp_path, "apply"):
        found = holder(tmp_path)
        assert found is not None
        assert found.what == "apply"
    assert holder(tmp_path) is None


def test_a_lock_can_be_waited_for(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    with other:
        with pytest.raises(LockHeldError), operation_lock(tmp_path, "apply", wait_seconds=1):
            pass
        assert time.monotonic() - started >= 1
        other.kill()
    with operation_lock(tmp_path, "apply", wait_seconds=5):
        pass


# Waits where a signal to another thread would not wake it.
WAITS = """
import threading
from infra.ops.operation import EndedBySignalError, Ending
try:
    with Ending().signals_raise():
        print("begun", flush=True)
        threading.Event().wait(60)
except EndedBySignalError as ended:
    print("put back:", ended, flush=True)
"""


def test_the_death_of_the_caller_ends_the_command() -> None:
    command = [sys.executable, "-c", WAITS]
    with subprocess.Popen(
        command,
        env={**os.environ, LIFELINE: "yes"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        output, _ = process.communicate(timeout=20)
    assert output == "put back: SIGHUP\n"


def test_without_a_lifeline_standard_input_is_left_alone() -> None:
    ended = WAITS.replace("wait(60)", "wait(0.5)")
    done = subprocess.run(
        [sys.executable, "-c", ended],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == "begun\n"
