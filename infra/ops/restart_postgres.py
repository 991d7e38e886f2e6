"""Restart PostgreSQL with every client waiting and none failing.

Check, checkpoint, pause every PgBouncer, have the host restart the server, wait for a real
query, resume. A dead-man in a container of its own holds the other end of the pause.
"""

import socket
import time
from pathlib import Path
from typing import Any

import psycopg

from infra.ops import exits, pause, pause_record, serving
from infra.ops.bounded import TimedOutError
from infra.ops.operation import FailedError, Operation, RefusedError, Request, operate
from infra.ops.pause import CannotPauseError, Pause, PauseLimits
from infra.ops.pause_record import Held
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.postgres_admin import PostgresAdmin
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere, first_line

LONG_TRANSACTION_SECONDS = 1.0
# What is under way a moment before the pause may still end by itself.
CALM_SECONDS = 2.0
POLL_SECONDS = 0.05
# A lookup just before the pause may be believed for its whole lifetime, and a little more.
DNS_SLACK_SECONDS = 0.3


def run(settings: OpsSettings, request: Request) -> int:
    """Restart the server; return the exit code."""

    def work(operation: Operation) -> None:
        _restart(settings, request.directory, operation)

    try:
        return operate(request, "restart postgres", work, paused_seconds=None)
    finally:
        # Where the locks cannot be, no dead-man watches either.
        if request.directory.is_dir():
            pause_record.operation_over(request.directory)


def _restart(settings: OpsSettings, directory: Path, operation: Operation) -> None:
    replicas = serving.require(settings, int(settings.values["pgbouncer"]["replicas"]))
    operation.say("looking for transactions and logins in the way; CHECKPOINT")
    with PostgresAdmin(settings) as admin:
        _check_transactions(admin)
        admin.checkpoint()
        _check_transactions(admin)
        before = admin.started_at()
    _check_logins(settings, replicas)
    operation.say("pausing every PgBouncer, once a dead-man watches")
    with pause_record.pause_record(directory) as record:
        try:
            done = _restart_paused(settings, replicas, before, record, operation)
        except CannotPauseError as error:
            raise CannotPauseError(f"{error}{_holders(settings)}") from error
    operation.ends_as(f"postgres restarted; clients waited for at most {done.seconds:.2f} s")


def _restart_paused(
    settings: OpsSettings,
    replicas: tuple[Target, ...],
    before: str,
    record: Held,
    operation: Operation,
) -> Pause:
    """Restart the server that started at `before`; tell of the pause however that ends."""
    limits = pause.limits(settings)
    host = settings.values["postgres"]["host"]
    address = _address(host)
    done: Pause | None = None
    try:
        with pause.paused(
            settings, replicas, limits, shield=operation.ending.shield, on_released=record.over
        ) as done:
            operation.say("paused: clients wait")
            operation.ask_host("restart-postgres")
            asked = time.monotonic()
            _await_restart(settings, before, done, limits)
            operation.done(host, "restarted", time.monotonic() - asked)
            operation.say("postgres answers again")
            _await_dns(host, address, done)
    finally:
        if done:
            _tell(done, replicas, operation)
    return done


def _tell(done: Pause, replicas: tuple[Target, ...], operation: Operation) -> None:
    """Say how long clients waited, and who may still hold some back."""
    operation.note(paused_seconds=done.seconds)
    if done.not_resumed:
        operation.fail(exits.FAILED, *done.not_resumed)
        return
    for replica in replicas:
        operation.done(replica.name, "paused and resumed", done.seconds)


def _check_transactions(admin: PostgresAdmin) -> None:
    """Refuse when a transaction is older than a second and stays.

    Raises:
        RefusedError: names process, user, age and query of each.

    """
    deadline = time.monotonic() + CALM_SECONDS
    while old := _old_transactions(admin):
        if time.monotonic() > deadline:
            raise RefusedError("a transaction is open for too long: " + "; ".join(old))
        time.sleep(POLL_SECONDS)


def _old_transactions(admin: PostgresAdmin) -> list[str]:
    return [
        _transaction(row)
        for row in admin.activity()
        if (row["xact_seconds"] or 0.0) > LONG_TRANSACTION_SECONDS
    ]


def _transaction(row: dict[str, Any]) -> str:
    query = " ".join((row["query"] or "").split())
    return f"process {row['pid']} ({row['usename']}), {row['xact_seconds']:.1f} s, query: {query}"


def _check_logins(settings: OpsSettings, replicas: tuple[Target, ...]) -> None:
    """Refuse while a server login is in progress: PAUSE would cut it and mark the pool."""

    def calm(target: Target) -> bool:
        deadline = time.monotonic() + CALM_SECONDS
        with PgBouncerAdmin(target, settings) as admin:
            while any(int(row["sv_login"]) for row in admin.pools()):
                if time.monotonic() > deadline:
                    return False
                time.sleep(POLL_SECONDS)
        return True

    for answer in everywhere(replicas, calm):
        if not answer.value:
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


def _await_restart(settings: OpsSettings, before: str, done: Pause, limits: PauseLimits) -> None:
    """Return once another run of the server has answered a query over TLS.

    Raises:
        FailedError: not within `max_seconds` of the pause.

    """
    deadline = done.began + limits.max_seconds
    while time.monotonic() < deadline:
        try:
            with PostgresAdmin(settings, call_seconds=deadline - time.monotonic()) as admin:
                if admin.started_at() != before:
                    return
        except (psycopg.Error, TimedOutError):
            pass
        time.sleep(POLL_SECONDS)
    raise FailedError(
        f"postgres was not back after PAUSE_MAX_SECONDS={limits.max_seconds}; clients were let "
        "through again and get errors until it is. See: docker compose logs postgres"
    )


def _await_dns(host: str, before: str, done: Pause) -> None:
    """After a move, wait until PgBouncer no longer believes in the old address."""
    if _address(host) == before:
        return
    until = done.drained + done.dns_max_ttl_seconds + DNS_SLACK_SECONDS
    time.sleep(max(0.0, until - time.monotonic()))


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return ""
