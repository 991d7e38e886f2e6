"""Deadlines are points in time; an outage is no saturation; settings out of range are refused."""

from time import monotonic
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

from app.pool import ConnectionSettings, Deadline, PoolSettings, PoolState
from app.pool.types import ConnectRecord, is_outage, summary


def state(in_use: int, idle: int = 0) -> PoolState:
    return PoolState("p", in_use + idle, 1, 4, in_use, idle, 0, 8)


def record(*, opened_at: float, failed_at: float) -> ConnectRecord:
    made = ConnectRecord()
    made.note_opened(opened_at)
    made.note_failed(failed_at, OSError("refused\nsecond line"))
    return made


@pytest.mark.parametrize(
    ("in_use", "failing", "expected"),
    [(4, True, False), (4, False, False), (1, True, True), (1, False, False), (0, False, True)],
)
def test_an_outage_is_when_connections_are_missing_and_cannot_be_made(
    in_use: int, failing: bool, expected: bool
) -> None:
    connects = record(opened_at=1.0, failed_at=2.0 if failing else 0.0)
    assert is_outage(state(in_use), connects) is expected


def test_an_outage_begins_and_ends_once() -> None:
    connects = ConnectRecord()
    assert connects.note_failed(1.0, OSError())
    assert not connects.note_failed(2.0, OSError())
    assert connects.note_opened(3.0)
    assert not connects.note_opened(4.0)


def test_a_summary_is_one_short_line() -> None:
    assert summary(OSError("refused\nsecond line")) == "OSError: refused"
    assert len(summary(OSError("x" * 999))) == 200


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (errors.InvalidTextRepresentation('"canary"'), "InvalidTextRepresentation 22P02: "),
        (errors.UniqueViolation("key\nDETAIL: canary"), "UniqueViolation 23505: "),
        (errors.SyntaxError('at or near "canary"'), "SyntaxError 42601: "),
        (errors.RaiseException("canary"), "RaiseException P0001: "),
        (psycopg.DataError("cannot load canary"), "DataError: "),
        (errors.QueryCanceled("statement timeout"), "QueryCanceled 57014: statement timeout"),
        (errors.DeadlockDetected("deadlock"), "DeadlockDetected 40P01: deadlock"),
        (psycopg.OperationalError("no route"), "OperationalError: no route"),
    ],
)
def test_a_summary_has_the_message_only_of_errors_that_quote_no_value(
    error: psycopg.Error, shown: str
) -> None:
    assert summary(error) == shown


SECONDS = st.floats(min_value=-1e6, max_value=1e6)


@given(SECONDS)
def test_what_remains_is_never_negative_nor_more_than_was_given(seconds: float) -> None:
    assert 0.0 <= Deadline.after(seconds).remaining() <= max(0.0, seconds)


@given(st.floats(max_value=0.0, min_value=-1e6))
def test_nothing_left_means_expired(seconds: float) -> None:
    assert Deadline.after(seconds).expired


@given(SECONDS, SECONDS)
def test_a_sooner_deadline_is_never_later_than_either(first: float, second: float) -> None:
    deadline = Deadline.after(first)
    sooner = deadline.sooner(second)
    assert sooner.at <= deadline.at
    assert sooner.at <= monotonic() + second


def test_an_infinite_deadline_never_expires() -> None:
    assert not Deadline.after(float("inf")).expired


PLACE: dict[str, Any] = {"host": "h", "port": 1, "dbname": "d", "user": "u", "password_file": "p"}


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="min_size") as caught:
        PoolSettings(min_size=9, max_size=4, max_waiting=0, timeout_seconds=0.0)
    lines = str(caught.value).splitlines()
    assert [line.split("=")[0] for line in lines] == [
        "pool.timeout_seconds",
        "pool.max_waiting",
        "pool.min_size",
    ]


def test_an_unbounded_queue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pool\.max_waiting=0 is below 1"):
        PoolSettings(max_waiting=0)


def test_a_connect_timeout_that_libpq_would_raise_is_refused() -> None:
    with pytest.raises(ValueError, match="connect_timeout_seconds=1 is below 2"):
        ConnectionSettings(**PLACE, sslmode="require", connect_timeout_seconds=1)


def test_verification_needs_a_certificate_authority() -> None:
    with pytest.raises(ValueError, match="sslrootcert is empty"):
        ConnectionSettings(**PLACE)


@pytest.mark.parametrize("name", ["sslmode", "load_balance_hosts"])
def test_an_unknown_choice_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='maybe' is unknown; use one of "):
        ConnectionSettings(**{**PLACE, "sslmode": "require", name: "maybe"})


def test_prepared_statements_can_be_switched_off() -> None:
    settings = ConnectionSettings(**PLACE, sslmode="require", prepare_threshold=None)
    assert settings.prepare_threshold is None
