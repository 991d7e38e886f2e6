"""Restart PostgreSQL with every client waiting and none failing.

Check, checkpoint, pause every PgBouncer, have the host restart the server, wait for a real
query, resume. A dead-man in a container of its own holds the other end of the pause.
"""

import socket
import time
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console

from infra.ops import exits, pause, pause_record, serving
from infra.ops.bounded import TimedOutError
from infra.ops.ending import Ending
from infra.ops.host_step import ask_host
from infra.ops.operation import FailedError, RefusedError, operate
from infra.ops.pause import CannotPauseError, Pause, PauseLimits
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


def run(settings: OpsSettings, directory: Path, *, wait_seconds: float) -> int:
    """Restart the server; return the exit code."""

    def work(ending: Ending, console: Console) -> int:
        return _report(_restart(settings, directory, console, ending), console)

    try:
        return operate(directory, "restart postgres", work, wait_seconds=wait_seconds)
    finally:
        pause_record.operation_over(directory)


def _restart(settings: OpsSettings, directory: Path, console: Console, ending: Ending) -> Pause:
    limits = pause.limits(settings)
    replicas = serving.require(settings, int(settings.values["pgbouncer"]["replicas"]))
    with PostgresAdmin(settings) as admin:
        _check_transactions(admin)
        admin.checkpoint()
        _check_transactions(admin)
        before = admin.started_at()
    _check_logins(settings, replicas)
    host = settings.values["postgres"]["host"]
    address = _address(host)
    with pause_record.pause_record(directory) as record:
        try:
            with pause.paused(
                settings, replicas, limits, shield=ending.shield, on_released=record.over
            ) as done:
                console.print("paused: clients wait")
                ask_host("restart-postgres")
                _await_restart(settings, before, done, limits)
                _await_dns(host, address, done)
        except CannotPauseError as error:
            raise CannotPauseError(f"{error}{_holders(settings)}") from error
    return done


def _report(done: Pause, console: Console) -> int:
    for fault in done.not_resumed:
        console.print(fault)
    console.print(f"postgres restarted; clients waited for at most {done.seconds:.2f} s")
    return exits.FAILED if done.not_resumed else exits.OK


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
