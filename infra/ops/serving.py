"""Which PgBouncer replicas serve: they answer on the console, are not paused, and pass queries."""

import time

import psycopg
from psycopg.conninfo import make_conninfo

from infra.config.names import MONITOR_ENTRY
from infra.ops import pgbouncer_admin
from infra.ops.bounded import bounded
from infra.ops.operation import FailedError, RefusedError
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.settings import OpsSettings
from infra.ops.targets import Answer, Target, everywhere

QUERY_SECONDS = 3.0
POLL_SECONDS = 0.1


class NotServingError(RefusedError):
    """A replica is missing or does not answer; one that is on its way back will."""


def require(settings: OpsSettings, expected: int | None = None) -> tuple[Target, ...]:
    """Return every replica; refuse unless all, and as many as expected, serve.

    Raises:
        NotServingError: one is missing or does not answer.
        RefusedError: one is paused.

    """
    replicas = pgbouncer_admin.replicas(settings)
    if expected is not None and len(replicas) != expected:
        raise NotServingError(
            f"{len(replicas)} of {expected} PgBouncer replicas run; start them first: make up"
        )
    for answer in everywhere(replicas, lambda target: _is_paused(settings, target)):
        if not answer.ok:
            raise NotServingError(f"{answer.target}: {answer.error}")
        if answer.value:
            raise RefusedError(f"{answer.target}: is paused")
    return replicas


def await_all(settings: OpsSettings, expected: int, *, seconds: float) -> tuple[Target, ...]:
    """Return the replicas once as many as expected pass queries to PostgreSQL.

    Raises:
        FailedError: they do not within `seconds`.

    """
    deadline = time.monotonic() + seconds
    while True:
        answers = everywhere(
            pgbouncer_admin.replicas(settings), lambda target: _query_through(settings, target)
        )
        if len(answers) == expected and all(answer.ok for answer in answers):
            return tuple(answer.target for answer in answers)
        if time.monotonic() > deadline:
            raise FailedError(_not_serving(answers, expected, seconds))
        time.sleep(POLL_SECONDS)


def _is_paused(settings: OpsSettings, target: Target) -> bool:
    with PgBouncerAdmin(target, settings) as admin:
        return admin.state().get("paused") == "yes"


def _query_through(settings: OpsSettings, target: Target) -> bool:
    """Send a query through this replica to PostgreSQL; proves the path, not the port."""
    conninfo = make_conninfo(
        settings.admin_conninfo(target.address, application_name="sluice-ops", user="monitor"),
        dbname=MONITOR_ENTRY,
    )
    with (
        psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection,
        bounded(connection, QUERY_SECONDS, "SELECT 1"),
    ):
        connection.execute("SELECT 1")
    return True


def _not_serving(answers: tuple[Answer[bool], ...], expected: int, seconds: float) -> str:
    faults = "".join(f"; {one.target}: {one.error}" for one in answers if not one.ok)
    return (
        f"{sum(one.ok for one in answers)} of {expected} PgBouncer replicas pass queries after "
        f"{seconds:g} s{faults}; see: docker compose logs pgbouncer"
    )
