"""The service's view of its database pool, and how the pool is made from settings."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry
from psycopg import Connection

from app.log import get_logger
from app.pool import DatabasePool, DatabaseUnavailable, Deadline, PoolState
from app.settings import ApiSettings, WorkerSettings

OPEN_SECONDS = 5.0
log = get_logger("app.database")

Work = Connection[tuple[Any, ...]]
T = TypeVar("T")


class Resizable(Protocol):
    """What the control plane needs of `app.pool.DatabasePool`; tests pass their own."""

    def state(self) -> PoolState:
        """Return sizes and queue length now."""

    def resize(self, min_size: int, max_size: int) -> None:
        """Set the limits of the pool; raise ValueError for invalid sizes."""

    def drain(self) -> None:
        """Replace every connection: idle ones now, lent ones when they come back."""


class Database(Resizable, Protocol):
    """What api and worker need of it besides."""

    def open(self, *, deadline: Deadline) -> None:
        """Open the pool, or raise DatabaseUnavailable."""

    def close(self, timeout_seconds: float) -> None:
        """Close every connection; wait at most that long for borrowers."""

    def run(
        self,
        work: Callable[[Work], T],
        *,
        deadline: Deadline,
        name: str,
        read_only: bool = False,
        lookup: Callable[[Work], T | None] | None = None,
        idempotent: bool = False,
    ) -> T:
        """Run `work` on a pooled connection, in one transaction unless read_only."""


def make_database(
    settings: ApiSettings | WorkerSettings, registry: CollectorRegistry
) -> DatabasePool:
    """Build the closed pool that a settings file describes."""
    return DatabasePool(
        settings.database,
        settings.pool,
        name=settings.database.dbname,
        registry=registry,
        origin=_origin,
    )


def make_standby(settings: ApiSettings, registry: CollectorRegistry) -> DatabasePool | None:
    """Build the closed pool that leads to the standbys; None where there is none.

    It has no connection while nobody reads from it.
    """
    if not settings.standby.dbname:
        return None
    connection = replace(settings.database, dbname=settings.standby.dbname)
    pool = replace(settings.pool, min_size=0, max_size=settings.standby.max_size, num_workers=1)
    return DatabasePool(connection, pool, name=connection.dbname, registry=registry, origin=_origin)


def _origin() -> str:
    """Return the request that is worked on, or the assessment where a worker works on one."""
    bound = structlog.contextvars.get_contextvars()
    return str(bound.get("request_id") or bound.get("assessment_id") or "")


def open_or_warn(database: Database) -> None:
    """Open the pool; without a database now, warn and leave it trying on its own.

    The process is live and not ready until then. Raises only what waiting cannot fix,
    such as a libpq that is too old.
    """
    try:
        database.open(deadline=Deadline.after(OPEN_SECONDS))
    except DatabaseUnavailable as error:
        log.warning("database pool is not open yet", reason=error.reason)
    else:
        log.info("database pool is open", state=str(database.state()))


def open_or_fail(database: Database) -> None:
    """Open the pool and have a query answered; raise DatabaseUnavailable when that fails."""
    deadline = Deadline.after(OPEN_SECONDS)
    database.open(deadline=deadline)
    database.run(ping, deadline=deadline, name="first", read_only=True)
    log.info("database pool is open", state=str(database.state()))


def ping(connection: Work) -> None:
    """Make one round trip to the server."""
    connection.execute("SELECT 1")
