"""A log line as JSON and as text, and the change from one to the other."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from app.log import configure_logging, get_logger, set_logging

CANARY = "canary-7f3a"
Captured = pytest.CaptureFixture[str]


@contextmanager
def logging_as_text() -> Iterator[None]:
    """Log to the present standard output; afterwards as before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    configure_logging("test", "INFO", "text", process=2)
    try:
        yield
    finally:
        set_logging("INFO", "json")
        root.handlers[:] = handlers
        root.setLevel(level)


def test_text_is_one_line_of_time_level_logger_event_and_fields(capsys: Captured) -> None:
    with logging_as_text():
        get_logger("app.some").warning("it happened", count=3, why="two words", path="/a")
        (line,) = capsys.readouterr().out.splitlines()
        time, rest = line.split(" ", 1)
        assert time.endswith("Z")
        fields = 'count=3 why="two words" path=/a service=test process=2'
        assert rest == f"warning  app.some: it happened {fields}"


def test_what_a_caller_sent_cannot_begin_a_line_or_reach_the_terminal(capsys: Captured) -> None:
    with logging_as_text():
        get_logger("app.some").info("a\nb", given='x\n\x1b[2J="y"')
        (line,) = capsys.readouterr().out.splitlines()
        assert "\x1b" not in line
        assert line.split("app.some: ")[1].startswith('a\\nb given="x\\n\\u001b[2J=\\"y\\""')


def test_a_traceback_follows_indented(capsys: Captured) -> None:
    with logging_as_text():
        try:
            raise ValueError("bad\nworse")
        except ValueError:
            get_logger("app.some").exception("failed")
        first, *others = capsys.readouterr().out.splitlines()
        assert "app.some: failed" in first
        assert others[0] == "    Traceback (most recent call last):"
        assert all(line.startswith("    ") for line in others)


class WrappedError(Exception):
    """As SQLAlchemy wraps an error of the driver."""

    def __init__(self, orig: BaseException) -> None:
        super().__init__(f"(InvalidTextRepresentation) {orig} [parameters: ('{CANARY}',)]")
        self.orig = orig


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_an_error_of_the_database_quotes_is_in_no_traceback(
    capsys: Captured, form: str
) -> None:
    quoting = psycopg.errors.InvalidTextRepresentation(f'invalid input syntax: "{CANARY}"')
    with logging_as_text():
        set_logging("INFO", form)
        try:
            try:
                raise quoting
            except psycopg.Error as error:
                raise WrappedError(error) from error
        except WrappedError as error:
            get_logger("app.some").exception("failed")
            group = ExceptionGroup("several", [error, quoting])
            get_logger("app.some").error("failed", exc_info=group)
        printed = capsys.readouterr().out
    assert CANARY not in printed
    assert printed.count("InvalidTextRepresentation 22P02: ") == 5
    assert "direct cause of the following exception" in printed
    assert "in test_what_an_error_of_the_database_quotes" in printed


def test_what_ends_a_process_or_a_thread_is_logged_without_values(capsys: Captured) -> None:
    def fail() -> None:
        raise psycopg.errors.RaiseException(CANARY)

    hooks = sys.excepthook, threading.excepthook
    try:
        with logging_as_text():
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            try:
                fail()
            except psycopg.Error as error:
                sys.excepthook(type(error), error, error.__traceback__)
            printed = capsys.readouterr()
    finally:
        sys.excepthook, threading.excepthook = hooks
    assert CANARY not in printed.out + printed.err
    assert printed.out.count("RaiseException P0001: ") == 2


def test_level_and_format_change_while_the_process_runs(capsys: Captured) -> None:
    with logging_as_text():
        log = get_logger("app.some")
        set_logging("ERROR", "json")
        log.info("not written")
        log.error("written")
        logging.getLogger("a.library").error("as well: %s", 7)
        ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
        assert (ours["event"], ours["level"], ours["service"]) == ("written", "error", "test")
        assert (theirs["event"], theirs["logger"]) == ("as well: 7", "a.library")
