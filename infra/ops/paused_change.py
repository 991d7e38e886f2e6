"""Change the server behind a pause, by a restart or a switchover: clients wait and none fails.

What is in the way is looked for before the pause; clients are let through when the server that was
wanted has answered a query.
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg

from infra.ops import pause, pause_record
from infra.ops.clients import pgbouncer
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import (
    OpsSettings,
    Target,
    TimedOutError,
    everywhere,
    first_line,
)
from infra.ops.operation import Operation
from infra.ops.outcome import Exit, FailedError, RefusedError
from infra.ops.pause import CannotPauseError, Pause, PauseLimits
from infra.ops.pause_record import Held
from infra.ops.waiting import gone, wait_until

T = TypeVar("T")
_LONG_TRANSACTION_SECONDS: Final = 1.0
# What is under way a moment before the pause may still end by itself.
CALM_SECONDS = 2.0
_CALM_POLL_SECONDS: Final = 0.05
# A lookup just before the pause may be used for its whole TTL, and a little more.
_DNS_SLACK_SECONDS: Final = 0.3


def paused_change(
    settings: OpsSettings,
    directory: Path,
    operation: Operation,
    change: Callable[[], None],
    is_over: Callable[[float], bool],
) -> float:
    """Do to the server what interrupts it while every client waits.

    `change` begins it; `is_over` has a query answered within the seconds that it is given, and
    says whether that is after it. Returns for how long clients waited at most, in seconds.

    Raises:
        RefusedError: a precondition is not met; nothing was changed.
        FailedError: it was not over within `max_seconds` of the pause.

    """
    replicas = pgbouncer.require(settings, int(settings.values["pgbouncer"]["replicas"]))
    operation.say("checking for long transactions and logins; CHECKPOINT")
    with PostgresAdmin(settings) as admin:
        _check_transactions(admin)
        admin.checkpoint()
        _check_transactions(admin)
    _check_logins(settings, replicas)
    operation.say("pausing every PgBouncer, once a dead-man watches")
    with pause_record.pause_record(directory) as record:
        try:
            done = _change_paused(settings, replicas, change, is_over, record, operation)
        except CannotPauseError as error:
            raise CannotPauseError(f"{error}{_holders(settings)}") from error
    return done.seconds


def _change_paused(
    settings: OpsSettings,
    replicas: tuple[Target, ...],
    change: Callable[[], None],
    is_over: Callable[[float], bool],
    record: Held,
    operation: Operation,
) -> Pause:
    """Change what serves; report the pause however that ends."""
    limits = pause.limits(settings)
    host = settings.values["postgres"]["host"]
    address = _address(host)
    done: Pause | None = None
    try:
        with pause.paused(
            settings, replicas, limits, shield=operation.ending.shield, on_released=record.over
        ) as done:
            operation.say("paused: clients wait")
            asked = time.monotonic()
            change()
            _await_change(is_over, done, limits)
            operation.done(host, "restarted", time.monotonic() - asked)
            operation.say("postgres answers again")
            if settings.values["pgbouncer"]["server_hop"] == "tls":
                _await_dns(host, address, done)
    finally:
        if done:
            _report_pause(done, replicas, operation)
    return done


def _report_pause(done: Pause, replicas: tuple[Target, ...], operation: Operation) -> None:
    """Say how long clients waited, and who may still hold some back."""
    operation.note(paused_seconds=done.seconds)
    if done.not_resumed:
        operation.fail(Exit.FAILED, *done.not_resumed)
        return
    for replica in replicas:
        operation.done(replica.name, "paused and resumed", done.seconds)


def _check_transactions(admin: PostgresAdmin) -> None:
    """Refuse when a transaction is older than a second and stays.

    Raises:
        RefusedError: names process, user, age and query of each.

    """
    old = _calm(lambda: _old_transactions(admin))
    if old:
        raise RefusedError("a transaction is open for too long: " + "; ".join(old))


def _calm(found: Callable[[], T]) -> T:
    """Return what is still found when it had the time to go away."""
    return wait_until(found, gone, seconds=CALM_SECONDS, every=_CALM_POLL_SECONDS)


def _old_transactions(admin: PostgresAdmin) -> list[str]:
    return [
        _transaction(row)
        for row in admin.activity()
        if (row["xact_seconds"] or 0.0) > _LONG_TRANSACTION_SECONDS
    ]


def _transaction(row: dict[str, Any]) -> str:
    query = " ".join((row["query"] or "").split())
    return f"process {row['pid']} ({row['usename']}), {row['xact_seconds']:.1f} s, query: {query}"


def _check_logins(settings: OpsSettings, replicas: tuple[Target, ...]) -> None:
    """Refuse while a server login is in progress: PAUSE would cut it and mark the pool."""

    def logins(target: Target) -> int:
        with PgBouncerAdmin(target, settings) as admin:
            return _calm(lambda: sum(int(row["sv_login"]) for row in admin.pools()))

    for answer in everywhere(replicas, logins):
        if not answer.ok or answer.value:
            why = answer.error or "a server login is in progress"
            raise RefusedError(f"{answer.target}: {why}")


def _holders(settings: OpsSettings) -> str:
    """Name the transactions that are still open a moment after a pause was given up."""
    try:
        with PostgresAdmin(settings) as admin:
            old = _old_transactions(admin)
    except (psycopg.Error, TimedOutError) as error:
        return f"; postgres: {first_line(error)}"
    return f"; held by {'; '.join(old)}" if old else ""


def _await_change(is_over: Callable[[float], bool], done: Pause, limits: PauseLimits) -> None:
    """Return once the server that was wanted has answered a query over TLS.

    Raises:
        FailedError: not within `max_seconds` of the pause.

    """
    deadline = done.began + limits.max_seconds

    def is_back() -> bool:
        seconds = max(deadline - time.monotonic(), _CALM_POLL_SECONDS)
        try:
            return is_over(seconds)
        except (psycopg.Error, TimedOutError):
            return False

    if not wait_until(is_back, seconds=deadline - time.monotonic(), every=_CALM_POLL_SECONDS):
        raise FailedError(
            f"postgres was not back after PAUSE_MAX_SECONDS={limits.max_seconds}; clients were let "
            "through again and get errors until it is. See: docker compose logs postgres"
        )


def _await_dns(host: str, before: str, done: Pause) -> None:
    """After a move, wait until PgBouncer's lookup of the old address has expired."""
    if _address(host) == before:
        return
    until = done.drained + done.dns_max_ttl_seconds + _DNS_SLACK_SECONDS
    time.sleep(max(0.0, until - time.monotonic()))


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return ""
