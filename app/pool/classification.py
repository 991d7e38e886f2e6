"""Which failure means what, as data: the retry table of the pool.

Errors are classified by SQLSTATE and, for PgBouncer, by message text: its own errors
all carry 08P01 (protocol violation), whatever happened. Exception classes do not
help: one class covers states that need opposite answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests


class FailureClass(StrEnum):
    """What kind of failure an error is; `RULES` says what to do about each."""

    NOT_STARTED = "not_started"
    """No statement reached a server: PgBouncer or the server turned the client away."""
    POOL_TIMEOUT = "pool_timeout"
    """No connection of the pool came free, or could be made, in time."""
    QUEUE_FULL = "queue_full"
    """`max_waiting` callers are already waiting for a connection."""
    CONFLICT = "conflict"
    """Serialization failure, deadlock, or a lock that was not free in time."""
    LOST = "lost"
    """The connection ended; a transaction whose COMMIT was not sent is rolled back."""
    WRONG_SERVER = "wrong_server"
    """A write reached a server that only reads, as after a failover."""
    STALE_PLAN = "stale_plan"
    """The server and the client disagree about a prepared statement."""
    TIME_LIMIT = "time_limit"
    """A limit of PostgreSQL or PgBouncer ended the statement or the transaction."""
    RESOURCES = "resources"
    """The server is out of disk or memory, or its disk fails."""
    DUPLICATE = "duplicate"
    """A unique key is taken: perhaps by an earlier try of the same work."""
    PERMANENT = "permanent"
    """An error of the program or its data: the same call would fail again."""


class Answer(StrEnum):
    """What the caller gets once the pool stops trying."""

    UNAVAILABLE = "unavailable"
    SATURATED = "saturated"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to do about one class of failure.

    `retries_max` bounds the repeats for this class within one run (None: only the
    settings bound them); `backoff_seconds` is the mean wait before the first of them;
    `discard` gives the connection up even where it still answers.
    """

    retries_max: int | None = 0
    backoff_seconds: float = 0.05
    discard: bool = False
    answer: Answer = Answer.UNAVAILABLE


RULES: dict[FailureClass, Rule] = {
    # PgBouncer tries a failed server login once a second: asking sooner is wasted.
    FailureClass.NOT_STARTED: Rule(retries_max=None, backoff_seconds=0.5, discard=True),
    # The wait in the pool was the backoff.
    FailureClass.POOL_TIMEOUT: Rule(retries_max=None, backoff_seconds=0.02),
    # Back-pressure: another try would only lengthen the queue it was refused from.
    FailureClass.QUEUE_FULL: Rule(answer=Answer.SATURATED),
    FailureClass.CONFLICT: Rule(retries_max=None, backoff_seconds=0.05),
    FailureClass.LOST: Rule(retries_max=None, backoff_seconds=0.05, discard=True),
    FailureClass.WRONG_SERVER: Rule(retries_max=None, backoff_seconds=0.5, discard=True),
    FailureClass.STALE_PLAN: Rule(retries_max=1, backoff_seconds=0.01, discard=True),
    FailureClass.TIME_LIMIT: Rule(retries_max=1, backoff_seconds=0.1),
    # 503 at once: a tight retry takes from the server what it is short of.
    FailureClass.RESOURCES: Rule(),
    FailureClass.DUPLICATE: Rule(answer=Answer.ORIGINAL),
    FailureClass.PERMANENT: Rule(answer=Answer.ORIGINAL),
}

SQLSTATES: dict[str, FailureClass] = {
    "57P03": FailureClass.NOT_STARTED,  # cannot_connect_now: starting up
    "53300": FailureClass.NOT_STARTED,  # too_many_connections, passed on by PgBouncer
    "40001": FailureClass.CONFLICT,  # serialization_failure
    "40P01": FailureClass.CONFLICT,  # deadlock_detected
    "55P03": FailureClass.CONFLICT,  # lock_not_available: bounded by lock_timeout
    "57P01": FailureClass.LOST,  # admin_shutdown: pg_terminate_backend, restart
    "57P02": FailureClass.LOST,  # crash_shutdown
    "57P05": FailureClass.LOST,  # idle_session_timeout
    "08000": FailureClass.LOST,
    "08001": FailureClass.LOST,
    "08003": FailureClass.LOST,
    "08004": FailureClass.LOST,
    "08006": FailureClass.LOST,
    "08007": FailureClass.LOST,  # transaction_resolution_unknown
    "08P01": FailureClass.LOST,  # PgBouncer, where no text below matches
    "25006": FailureClass.WRONG_SERVER,  # read_only_sql_transaction
    "26000": FailureClass.STALE_PLAN,  # invalid_sql_statement_name
    "42P05": FailureClass.STALE_PLAN,  # duplicate_prepared_statement
    "57014": FailureClass.TIME_LIMIT,  # query_canceled: statement_timeout
    "25P03": FailureClass.TIME_LIMIT,  # idle_in_transaction_session_timeout
    "25P04": FailureClass.TIME_LIMIT,  # transaction_timeout
    "53000": FailureClass.RESOURCES,
    "53100": FailureClass.RESOURCES,  # disk_full
    "53200": FailureClass.RESOURCES,  # out_of_memory
    "53400": FailureClass.RESOURCES,  # configuration_limit_exceeded
    "58030": FailureClass.RESOURCES,  # io_error
    "23505": FailureClass.DUPLICATE,  # unique_violation
}
"""SQLSTATE to class; what is not here is PERMANENT (all of 22, 23, 42 and the rest)."""

PGBOUNCER_TEXTS: tuple[tuple[str, FailureClass], ...] = (
    ("query_wait_timeout", FailureClass.NOT_STARTED),
    ("query_timeout", FailureClass.NOT_STARTED),  # with the underscore: while still queued
    ("server login has been failing", FailureClass.NOT_STARTED),
    ("server login failed", FailureClass.NOT_STARTED),
    ("server shutting down", FailureClass.NOT_STARTED),
    ("pooler is shutting down", FailureClass.NOT_STARTED),
    ("no more connections allowed", FailureClass.NOT_STARTED),
    ("client connections exceeded", FailureClass.NOT_STARTED),
    ("client_login_timeout", FailureClass.NOT_STARTED),
    ("client_idle_timeout", FailureClass.NOT_STARTED),
    # The server's own refusals of a login; PgBouncer passes the first of them on as they are.
    ("too many connections for", FailureClass.NOT_STARTED),
    ("too many clients already", FailureClass.NOT_STARTED),
    ("remaining connection slots are reserved", FailureClass.NOT_STARTED),
    ("the database system is", FailureClass.NOT_STARTED),
    ("prepared statement did not exist", FailureClass.STALE_PLAN),
    ("prepared statement name is already in use", FailureClass.STALE_PLAN),
    ("query timeout", FailureClass.TIME_LIMIT),  # with the space: it was running
    ("idle transaction timeout", FailureClass.TIME_LIMIT),
    ("transaction timeout", FailureClass.TIME_LIMIT),
    ("server conn crashed?", FailureClass.LOST),
)
"""Text of a PgBouncer error (SQLSTATE 08P01) to class; the first match counts."""

UNREACHABLE_TEXTS: tuple[str, ...] = (
    "server login has been failing",
    "server login failed",
    "the database system is",
)
"""Text of a NOT_STARTED error that says that no server takes queries now.

A wait that ran out says nothing of the kind: in a planned pause everything waits.
"""

UNREPLICATED = "wait for synchronous replication"
"""Part of the warning with which a server stops waiting for a standby, in both of its forms.

What was committed is on one server only: a failover loses it.
"""

LOST_TEXTS: tuple[str, ...] = (
    UNREPLICATED,
    "server closed the connection",
    "ssl connection has been closed",
    "ssl syscall error",
    "ssl error",
    "eof detected",
    "connection reset",
    "broken pipe",
    "could not receive data",
    "could not send data",
    "connection timed out",
    "the connection is closed",
    "the connection is lost",
    "connection not open",
    "no connection to the server",
    "connection socket closed",
    "connection timeout expired",
)
"""Text (lower case) of a libpq or psycopg error without SQLSTATE that means LOST."""

POOL_ERRORS: dict[type[BaseException], FailureClass] = {
    PoolTimeout: FailureClass.POOL_TIMEOUT,
    TooManyRequests: FailureClass.QUEUE_FULL,
    PoolClosed: FailureClass.PERMANENT,
}


def classify(error: BaseException, *, broken: bool = False) -> FailureClass:
    """Return the class of an error; `broken` says that its connection is gone."""
    if type(error) in POOL_ERRORS:
        return POOL_ERRORS[type(error)]
    if not isinstance(error, psycopg.Error):
        return FailureClass.PERMANENT
    if error.sqlstate is None:
        return _without_sqlstate(error, broken)
    if error.sqlstate == "08P01":
        return _pgbouncer(str(error)) or SQLSTATES["08P01"]
    if error.sqlstate == "0A000" and "cached plan" in str(error):
        return FailureClass.STALE_PLAN
    return SQLSTATES.get(error.sqlstate, FailureClass.PERMANENT)


def is_unreachable(error: BaseException) -> bool:
    """Return True if the pooler, or the server itself, said that no server takes queries now."""
    if classify(error) is not FailureClass.NOT_STARTED:
        return False
    return any(fragment in str(error) for fragment in UNREACHABLE_TEXTS)


def is_fatal(error: BaseException) -> bool:
    """Return True if the server said that it ends the connection after this error."""
    severity = error.diag.severity_nonlocalized if isinstance(error, psycopg.Error) else None
    return severity in ("FATAL", "PANIC")


def _without_sqlstate(error: psycopg.Error, broken: bool) -> FailureClass:
    text = str(error).lower()
    # libpq keeps no SQLSTATE of a refusal while connecting, only its text.
    if failure := _pgbouncer(text):
        return failure
    if broken or any(fragment in text for fragment in LOST_TEXTS):
        return FailureClass.LOST
    return FailureClass.PERMANENT


def _pgbouncer(text: str) -> FailureClass | None:
    matches = (failure for fragment, failure in PGBOUNCER_TEXTS if fragment in text)
    return next(matches, None)
