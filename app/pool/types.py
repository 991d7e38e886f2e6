"""What callers of the pool see and give: deadlines, its state, its errors, its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import ceil
from time import monotonic

import psycopg

MINIMUM_CONNECT_TIMEOUT_SECONDS = 2  # libpq and psycopg raise anything lower to this
PORT_MAX = 65535
SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
LOAD_BALANCE_HOSTS = frozenset({"disable", "random"})
# Classes of SQLSTATE whose messages quote no value: connections, authorization, the state of a
# transaction, conflicts, resources, limits, timeouts and cancels, the system, corruption.
_NO_VALUES = ("08", "25", "28", "40", "53", "55", "57", "58", "XX")


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A point on the monotonic clock, in seconds.

    A point and not a duration, so that passing it down a call chain spends one
    allowance instead of granting a fresh one at every level.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline `seconds` from now; zero or less has expired already."""
        return cls(monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self.at - monotonic())

    @property
    def expired(self) -> bool:
        """True once the point has passed."""
        return monotonic() >= self.at

    def sooner(self, seconds: float) -> Deadline:
        """Return this deadline, or the one `seconds` from now where that comes first."""
        return Deadline(min(self.at, monotonic() + seconds))


@dataclass(frozen=True, slots=True)
class PoolState:
    """Numbers of connections (or callers, for `waiting`) at one moment.

    `size` counts connections that exist or are being made; `in_use` those lent to
    callers; `idle` those ready to be lent. What is in neither is being made,
    checked or replaced. While `unreachable` every caller is refused at once.
    """

    name: str
    size: int
    min_size: int
    max_size: int
    in_use: int
    idle: int
    waiting: int
    max_waiting: int
    unreachable: bool = False

    def __str__(self) -> str:
        return (
            f"{self.in_use} in use, {self.idle} idle, size {self.size} of {self.max_size}, "
            f"{self.waiting} waiting of {self.max_waiting}"
        )


@dataclass(slots=True)
class ConnectRecord:
    """How the attempts to connect have been going.

    Written by the pool's worker threads without a lock: each field is one
    assignment, and a reader that sees half of an update is wrong for microseconds.
    """

    pool: str = ""
    opened_within: Callable[[float], object] = lambda _seconds: None
    """Called with the time that a connection took to open."""
    opened: int = 0
    failed: int = 0
    last_opened_at: float = field(default=float("-inf"))
    last_failed_at: float = field(default=float("-inf"))
    last_error: str = ""

    def note_opened(self, now: float) -> bool:
        """Count a connection made at `now` (monotonic seconds); True ends an outage."""
        recovered = self.failing
        self.opened += 1
        self.last_opened_at = now
        return recovered

    def note_failed(self, now: float, error: BaseException) -> bool:
        """Count an attempt that failed at `now` (monotonic seconds); True begins an outage."""
        begun = not self.failing
        self.failed += 1
        self.last_failed_at = now
        self.last_error = summary(error)
        return begun

    @property
    def failing(self) -> bool:
        """True when the latest attempt failed."""
        return self.last_failed_at > self.last_opened_at


def is_outage(state: PoolState, connects: ConnectRecord) -> bool:
    """Return True if a caller's wait timed out because no connection can be made.

    The other reason is that all connections are lent: saturation, where asking for
    less helps. The two look alike to the caller, who only sees the wait end.
    """
    if state.in_use >= state.max_size:
        return False
    return connects.failing or state.in_use + state.idle == 0


def summary(error: BaseException) -> str:
    """Return the class and SQLSTATE of an error and, in one line, what of it holds no value.

    At most 200 characters. PostgreSQL quotes values in its messages, of rows, parameters and
    statements: of an error that can, the names of what it is about stand for the message.
    """
    state = getattr(error, "sqlstate", None)
    label = type(error).__name__ + (f" {state}" if state else "")
    return f"{label}: {_without_values(error, state)}"[:200]


def _without_values(error: BaseException, state: str | None) -> str:
    if not isinstance(error, psycopg.Error) or _quotes_nothing(error, state):
        lines = str(error).strip().splitlines()
        return lines[0] if lines else ""
    named = {
        "table": error.diag.table_name,
        "column": error.diag.column_name,
        "constraint": error.diag.constraint_name,
        "type": error.diag.datatype_name,
        # The function of the server's source: it tells one error of a class from another.
        "raised by": error.diag.source_function,
    }
    return ", ".join(f"{what} {name}" for what, name in named.items() if name)


def _quotes_nothing(error: psycopg.Error, state: str | None) -> bool:
    if state is None:
        # The driver's own, of a connection; others quote what they could not convert.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith(_NO_VALUES)


class DatabaseUnavailable(Exception):  # noqa: N818 - a state of the service, not a fault in the code
    """The database cannot be used now; nothing was committed. Try again later."""

    def __init__(self, reason: str, state: PoolState, retry_after_seconds: float = 2.0) -> None:
        self.reason = reason
        self.state = state
        self.retry_after_seconds: int = max(1, ceil(retry_after_seconds))
        super().__init__(f"pool {state.name!r}: {reason} ({state})")


class PoolSaturated(DatabaseUnavailable):
    """Every connection is lent and the queue for one is full or too slow."""


class DeadlineExceeded(DatabaseUnavailable):
    """The deadline passed before the work was done; nothing was committed."""


class CommitOutcomeUnknown(DatabaseUnavailable):
    """COMMIT was sent and its answer never came: the work is in the database, or it is not."""


class TransactionMisuse(RuntimeError):  # noqa: N818 - same family as the other four
    """Work ended, or spoilt, the transaction that the pool opened for it and has to commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """Where to connect and how; every field is one psycopg or libpq parameter.

    Raises:
        ValueError: one line for each field out of range, naming field, value and rule.

    """

    host: str
    port: int
    dbname: str
    user: str
    password_file: str
    sslmode: str = "verify-full"
    sslrootcert: str = ""
    load_balance_hosts: str = "random"
    application_name: str = "sluice"
    connect_timeout_seconds: int = 3
    tcp_user_timeout_ms: int = 5000
    keepalives_idle_seconds: int = 5
    keepalives_interval_seconds: int = 2
    keepalives_count: int = 3
    prepare_threshold: int | None = 5
    prepared_max: int = 100

    def __post_init__(self) -> None:
        _refuse(list(self._faults()))

    def _faults(self) -> Iterator[str]:
        least = {
            "port": 1,
            "connect_timeout_seconds": MINIMUM_CONNECT_TIMEOUT_SECONDS,
            "tcp_user_timeout_ms": 0,
            "keepalives_idle_seconds": 1,
            "keepalives_interval_seconds": 1,
            "keepalives_count": 1,
            "prepare_threshold": 0,
            "prepared_max": 0,
        }
        for name in ("host", "dbname", "user", "password_file"):
            if not getattr(self, name):
                yield f"database.{name} is empty"
        yield from _below(self, "database", least)
        if self.port > PORT_MAX:
            yield f"database.port={self.port} exceeds {PORT_MAX}"
        yield from self._unknown("sslmode", SSL_MODES)
        yield from self._unknown("load_balance_hosts", LOAD_BALANCE_HOSTS)
        if self.sslmode.startswith("verify-") and not self.sslrootcert:
            yield f"database.sslrootcert is empty; sslmode={self.sslmode} needs the CA's file"

    def _unknown(self, name: str, known: frozenset[str]) -> Iterator[str]:
        value = getattr(self, name)
        if value not in known:
            yield f"database.{name}={value!r} is unknown; use one of {', '.join(sorted(known))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many connections, how long to wait, when to check and when to try again.

    Raises:
        ValueError: one line for each field out of range, naming field, value and rule.

    """

    min_size: int = 2
    max_size: int = 16
    timeout_seconds: float = 2.0
    max_waiting: int = 64
    max_lifetime_seconds: float = 1800.0
    max_idle_seconds: float = 300.0
    reconnect_timeout_seconds: float = 10.0
    num_workers: int = 3
    check_idle_seconds: float = 5.0
    leak_threshold_seconds: float = 8.0
    retry_budget_seconds: float = 8.0
    retry_attempts_max: int = 3

    def __post_init__(self) -> None:
        _refuse(list(self._faults()))

    def _faults(self) -> Iterator[str]:
        least = dict.fromkeys((item.name for item in fields(self)), 0.1) | {
            "min_size": 0,
            "max_size": 1,
            "timeout_seconds": 0.01,
            "max_waiting": 1,  # zero means "no bound" to psycopg_pool
            "num_workers": 1,
            "check_idle_seconds": 0.0,
            "retry_budget_seconds": 0.0,
            "retry_attempts_max": 1,
        }
        yield from _below(self, "pool", least)
        yield from size_faults(self.min_size, self.max_size)


def _below(settings: object, group: str, minimum: Mapping[str, float]) -> Iterator[str]:
    for name, least in minimum.items():
        value = getattr(settings, name)
        # The other way round NaN would pass.
        if value is not None and not value >= least:
            yield f"{group}.{name}={value} is below {least:g}; give it {least:g} or more"


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))


def size_faults(min_size: int, max_size: int) -> Iterator[str]:
    """Yield what is wrong with a pair of pool sizes; nothing when it is usable."""
    if min_size > max_size:
        yield (
            f"pool.min_size={min_size} exceeds max_size={max_size}; "
            "lower min_size or raise max_size"
        )
