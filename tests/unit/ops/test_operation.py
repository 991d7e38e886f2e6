"""What an operation prints for a program: one document, with the exit code and the reasons."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.ops import exits
from infra.ops.operation import EndedBySignalError, Operation, Request, operate, operation_lock
from infra.ops.outcome import FailedError, RefusedError

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
    assert operate(request, "a test", work, paused_seconds=None) == exits.OK
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

    assert operate(Request(tmp_path), "a test", work) == exits.OK
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["host: replace-pgbouncer p1", "all serve"]
    assert captured.err.splitlines() == ["p1: restarting [not markup]"]


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (RefusedError("is paused"), exits.REFUSED, "refused: is paused"),
        (FailedError("it did not start"), exits.FAILED, "it did not start"),
        (psycopg.OperationalError("gone\nmore"), exits.FAILED, "a test: gone"),
        (OSError(28, "No space left on device"), exits.FAILED, "a test: [Errno 28] No space left"),
        (EndedBySignalError("SIGTERM"), exits.FAILED, "a test: ended by SIGTERM"),
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
        operation.fail(exits.BAD_INPUT, "a.password: has 5 characters", "b.password: has 6")
        operation.ends_as("nothing was changed")

    assert operate(Request(tmp_path), "a test", work) == exits.BAD_INPUT
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
    assert code == printed["exit_code"] == exits.REFUSED
    assert printed["faults"][0].startswith("refused: apply in container")
    assert printed["steps"] == []


def test_a_directory_that_is_not_there_is_a_document(tmp_path: Path, capsys: Captured) -> None:
    request = Request(tmp_path / "none", as_json=True)
    assert operate(request, "a test", raising(AssertionError())) == exits.FAILED
    assert "No such file or directory" in document(capsys)["faults"][0]


def test_a_signal_ends_the_work_and_not_the_document(tmp_path: Path, capsys: Captured) -> None:
    def work(operation: Operation) -> None:
        operation.done("p1", "restarted")
        signal.raise_signal(signal.SIGTERM)

    assert operate(Request(tmp_path, as_json=True), "a test", work) == exits.FAILED
    printed = document(capsys)
    assert printed["faults"] == ["a test: ended by SIGTERM"]
    assert [one["process"] for one in printed["processes"]] == ["p1"]
