"""The settings in force in PgBouncer's server connections, which no view of PostgreSQL shows.

A client that sends SET through a pool in transaction mode changes the server connection for whoever
comes after it. So as many transactions as the pool has server connections are open at once, each
on one of them, and each reads its own settings.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import ServerSetting
from infra.ops.clients.processes import OpsSettings, Target, bounded, first_line

# Of a larger pool not every connection is looked at.
SESSIONS_MAX: Final = 32
_CALL_SECONDS: Final = 5.0
# So long a transaction waits for the others to have theirs, and callers for its connection.
_TOGETHER_SECONDS: Final = 0.25
# PgBouncer itself sets these, to what each client asked for.
_PER_CLIENT: Final = (
    *("application_name", "client_encoding", "DateStyle", "TimeZone"),
    "standard_conforming_strings",
)
# Each transaction begins with the defaults of these, which are settings of their own.
_PER_TRANSACTION: Final = (
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
)
# A session's own, and what ALTER ROLE and ALTER DATABASE, global: of every role, gave it.
_SETTINGS: Final = """
SELECT pg_catalog.pg_backend_pid() AS pid, name, setting, unit, context, source
FROM pg_catalog.pg_settings
WHERE source IN ('session', 'user', 'database', 'database user', 'global') AND name <> ALL(%s)
"""


@dataclass(frozen=True, slots=True)
class Login:
    """A database entry, a role that it lets in, and that role's password."""

    entry: str
    role: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Looked:
    """The settings by name of each server connection that was seen; `missed` says what was not."""

    settings: tuple[dict[str, ServerSetting], ...]
    missed: str = ""


def look(settings: OpsSettings, target: Target, login: Login) -> Looked:
    """Look into the server connections that one replica has for an entry now."""
    with PgBouncerAdmin(target, settings) as admin:
        count = _servers(admin.pools(), login)
    if not count:
        return Looked(())
    conninfo = make_conninfo(
        settings.admin_conninfo(target.address, application_name="sluice-ops"),
        dbname=login.entry,
        user=login.role,
        password=login.password,
    )
    asked = min(count, SESSIONS_MAX)
    together = threading.Barrier(asked)
    with ThreadPoolExecutor(asked) as pool:
        tries = [pool.submit(_read, conninfo, together) for _ in range(asked)]
    errors = [first_line(error) for one in tries if (error := one.exception())]
    seen: dict[int, dict[str, ServerSetting]] = {}
    for one in tries:
        if not one.exception():
            pid, found = one.result()
            seen[pid] = found
    missed = ""
    if len(seen) < count:
        why = f": {errors[0]}" if errors else ""
        missed = (
            f"what clients have SET is known of {len(seen)} of {count} server connections "
            f"of {login.entry}{why}"
        )
    return Looked(tuple(seen.values()), missed)


def _servers(pools: list[dict[str, Any]], login: Login) -> int:
    """Return how many server connections could be handed to a client of this login."""
    columns = ("sv_active", "sv_idle", "sv_used", "sv_tested")
    return sum(
        int(row[name])
        for row in pools
        if (row["database"], row["user"]) == (login.entry, login.role)
        for name in columns
    )


def _read(conninfo: str, together: threading.Barrier) -> tuple[int, dict[str, ServerSetting]]:
    """Return the process id of one server connection, and its settings."""
    try:
        connection = psycopg.connect(conninfo, row_factory=dict_row, prepare_threshold=None)
        with (
            closing(connection),
            bounded(connection, _CALL_SECONDS, "the settings of a session"),
        ):
            rows = connection.execute(_SETTINGS, [[*_PER_CLIENT, *_PER_TRANSACTION]]).fetchall()
            # Only then are all of them in a transaction, each on a connection of its own.
            with suppress(threading.BrokenBarrierError):
                together.wait(_TOGETHER_SECONDS)
            connection.rollback()
    except BaseException:
        together.abort()
        raise
    found = {row["name"]: _setting(row) for row in rows}
    return int(rows[0]["pid"]) if rows else 0, found


def _setting(row: dict[str, Any]) -> ServerSetting:
    return ServerSetting(row["name"], row["setting"], row["unit"], row["context"], row["source"])
