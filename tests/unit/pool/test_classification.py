"""The retry table is complete, and each signal of it lands in the right class."""

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from app.pool.classification import (
    LOST_TEXTS,
    PGBOUNCER_TEXTS,
    RULES,
    SQLSTATES,
    Answer,
    FailureClass,
    classify,
    is_fatal,
)

CODES = st.text(alphabet="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5)


def error(sqlstate: str | None, text: str = "message") -> psycopg.Error:
    made = psycopg.OperationalError(text)
    made.sqlstate = sqlstate
    return made


def pgbouncer(text: str) -> psycopg.Error:
    return error("08P01", f"FATAL:  {text}")


def test_every_class_has_a_rule() -> None:
    assert set(RULES) == set(FailureClass)


def test_every_class_can_be_reached() -> None:
    pool = {FailureClass.POOL_TIMEOUT, FailureClass.QUEUE_FULL, FailureClass.PERMANENT}
    texts = {failure for _, failure in PGBOUNCER_TEXTS}
    assert pool | texts | set(SQLSTATES.values()) == set(FailureClass)


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("57P03", FailureClass.NOT_STARTED),
        ("53300", FailureClass.NOT_STARTED),
        ("40001", FailureClass.CONFLICT),
        ("40P01", FailureClass.CONFLICT),
        ("55P03", FailureClass.CONFLICT),
        ("57P01", FailureClass.LOST),
        ("57P02", FailureClass.LOST),
        ("08006", FailureClass.LOST),
        ("08003", FailureClass.LOST),
        ("25006", FailureClass.WRONG_SERVER),
        ("26000", FailureClass.STALE_PLAN),
        ("42P05", FailureClass.STALE_PLAN),
        ("57014", FailureClass.TIME_LIMIT),
        ("25P03", FailureClass.TIME_LIMIT),
        ("25P04", FailureClass.TIME_LIMIT),
        ("53100", FailureClass.RESOURCES),
        ("53200", FailureClass.RESOURCES),
        ("58030", FailureClass.RESOURCES),
        ("23505", FailureClass.DUPLICATE),
        ("22012", FailureClass.PERMANENT),
        ("23503", FailureClass.PERMANENT),
        ("42601", FailureClass.PERMANENT),
        ("0A000", FailureClass.PERMANENT),
        ("XX000", FailureClass.PERMANENT),
    ],
)
def test_sqlstate_decides_the_class(sqlstate: str, expected: FailureClass) -> None:
    assert classify(error(sqlstate)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("query_wait_timeout", FailureClass.NOT_STARTED),
        (
            "server login has been failing, cached error: connect failed (server_login_retry)",
            FailureClass.NOT_STARTED,
        ),
        ("server shutting down", FailureClass.NOT_STARTED),
        ("no more connections allowed (max_client_conn)", FailureClass.NOT_STARTED),
        ("client_login_timeout (server down)", FailureClass.NOT_STARTED),
        ("server conn crashed?", FailureClass.LOST),
        ("query timeout", FailureClass.TIME_LIMIT),
        ("prepared statement did not exist", FailureClass.STALE_PLAN),
        ("a text of a later release", FailureClass.LOST),
    ],
)
def test_pgbouncer_errors_are_told_apart_by_text(text: str, expected: FailureClass) -> None:
    assert classify(pgbouncer(text)) is expected


def test_a_cached_plan_is_stale_and_any_other_0a000_is_permanent() -> None:
    stale = error("0A000", "cached plan must not change result type")
    assert classify(stale) is FailureClass.STALE_PLAN


@pytest.mark.parametrize("text", LOST_TEXTS)
def test_a_lost_connection_without_sqlstate_is_known_by_its_text(text: str) -> None:
    assert classify(error(None, text.upper())) is FailureClass.LOST


@pytest.mark.parametrize(
    "text",
    [
        'too many connections for role "risk_api"',
        "sorry, too many clients already",
        "remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "the database system is starting up",
    ],
)
def test_a_login_that_the_server_refuses_never_started(text: str) -> None:
    """PgBouncer passes it on to the client that waited, and libpq keeps no SQLSTATE of it."""
    refused = error(None, f'connection to server at "10.0.0.2" failed: FATAL:  {text}')
    assert classify(refused) is FailureClass.NOT_STARTED


def test_a_broken_connection_makes_any_error_without_sqlstate_lost() -> None:
    assert classify(error(None, "?"), broken=True) is FailureClass.LOST
    assert classify(error(None, "?"), broken=False) is FailureClass.PERMANENT


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (PoolTimeout, FailureClass.POOL_TIMEOUT),
        (TooManyRequests, FailureClass.QUEUE_FULL),
        (PoolClosed, FailureClass.PERMANENT),
    ],
)
def test_errors_of_the_pool_have_their_own_class(
    kind: type[psycopg.OperationalError], expected: FailureClass
) -> None:
    assert classify(kind("x"), broken=True) is expected


@given(st.sampled_from(["22", "23", "42"]), CODES)
def test_errors_in_the_data_are_never_retried(group: str, code: str) -> None:
    failure = classify(error(group + code[2:]))
    assert failure is FailureClass.STALE_PLAN or RULES[failure].answer is Answer.ORIGINAL


@given(st.sampled_from([KeyError("x"), ValueError("eof detected"), RuntimeError()]))
def test_errors_of_the_work_are_permanent(mine: Exception) -> None:
    assert classify(mine) is FailureClass.PERMANENT


@given(CODES, st.text())
def test_any_error_gets_a_class(code: str, text: str) -> None:
    assert classify(error(code, text)) in RULES


def test_what_is_answered_with_the_original_error_is_never_repeated() -> None:
    repeated = [
        failure
        for failure, rule in RULES.items()
        if rule.answer is Answer.ORIGINAL and rule.retries_max != 0
    ]
    assert repeated == []


def test_an_error_made_without_a_server_is_not_fatal() -> None:
    assert not is_fatal(error("57P01"))
    assert not is_fatal(KeyError("x"))
