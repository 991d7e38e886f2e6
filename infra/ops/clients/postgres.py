"""The PostgreSQL server as sluice_operator sees it, directly, every call bounded in time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from infra.ops.clients.processes import OpsSettings, bounded
from infra.ops.waiting import wait_until

CALL_SECONDS = 10.0
Row = dict[str, Any]

SETTINGS = """
SELECT name, setting, unit, context, source
FROM pg_catalog.pg_settings
"""
FILE_FAULTS = """
SELECT name, error FROM pg_catalog.pg_file_settings WHERE error IS NOT NULL
"""
# A role's own password, and settings that have it in every database, are its own to change.
ROLES = """
SELECT rolname, rolconnlimit, coalesce(rolconfig, '{}') AS rolconfig,
       json_build_object(
           'login', rolcanlogin, 'superuser', rolsuper, 'createrole', rolcreaterole,
           'createdb', rolcreatedb, 'replication', rolreplication, 'bypassrls', rolbypassrls,
           'inherit', rolinherit, 'valid_until', coalesce(rolvaliduntil::text, 'infinity'),
           'member_of', coalesce((
               SELECT string_agg(concat_ws(' ', granted.rolname,
                          CASE WHEN admin_option THEN 'admin' END,
                          CASE WHEN NOT inherit_option THEN 'noinherit' END,
                          CASE WHEN NOT set_option THEN 'noset' END),
                      ', ' ORDER BY granted.rolname COLLATE "C")
               FROM pg_catalog.pg_auth_members
               JOIN pg_catalog.pg_roles AS granted ON granted.oid = roleid
               WHERE member = r.oid), '')) AS attributes
FROM pg_catalog.pg_roles AS r WHERE rolname = ANY(%s)
"""
MAY_CONNECT = """
SELECT rolname, datname
FROM pg_catalog.pg_roles, pg_catalog.pg_database
WHERE rolcanlogin AND NOT rolsuper
      AND pg_catalog.has_database_privilege(pg_roles.oid, pg_database.oid, 'CONNECT')
"""
# Those of one database only, and those of every role.
OTHER_ROLE_SETTINGS = """
SELECT coalesce(r.rolname, 'all') || coalesce('@' || datname, '') AS name, setconfig AS rolconfig
FROM pg_catalog.pg_db_role_setting
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = setrole
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = setdatabase
WHERE (setrole = 0 AND (setdatabase = 0 OR datname = 'risk'))
      OR (setdatabase <> 0 AND rolname = ANY(%s))
"""
VERIFIER_DIGESTS = "SELECT rolname, digest FROM sluice.password_digests"
# Client sessions only; the oldest transaction first.
ACTIVITY = """
SELECT pid, usename, datname, application_name, client_addr::text, state, wait_event_type,
       wait_event, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS xact_seconds,
       extract(epoch FROM clock_timestamp() - query_start)::float8 AS query_seconds,
       left(query, 200) AS query
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
ORDER BY xact_start NULLS LAST
"""
# What the checkpointer waits for: while a checkpoint is spread over its time, for the next write.
CHECKPOINTER = """
SELECT wait_event FROM pg_catalog.pg_stat_activity WHERE backend_type = 'checkpointer'
"""
# The lock's own clock; since PostgreSQL 14 it starts when the wait does.
BLOCKED = """
SELECT pid, usename, extract(epoch FROM clock_timestamp() - coalesce(
           (SELECT min(waitstart) FROM pg_catalog.pg_locks WHERE pid = a.pid AND NOT granted),
           query_start))::float8 AS wait_seconds,
       left(query, 200) AS query, pg_catalog.pg_blocking_pids(pid) AS blocked_by
FROM pg_catalog.pg_stat_activity AS a
WHERE backend_type = 'client backend' AND wait_event_type = 'Lock'
ORDER BY query_start
"""
# A row that DDL has written has another xmin; below 16384 are the system's own.
DDL_VERSION = """
SELECT coalesce(md5(string_agg(version, ',' ORDER BY version)), '') AS version
FROM (
    SELECT format('%s.%s.%s', attrelid, attnum, xmin) AS version
    FROM pg_catalog.pg_attribute WHERE attrelid >= 16384
    UNION ALL
    SELECT format('%s.%s', oid, xmin) FROM pg_catalog.pg_proc WHERE oid >= 16384
) AS columns_and_functions
"""
# The index tasks_claimable has the unfinished ones only.
TASKS = """
SELECT count(*) FILTER (WHERE state = 'queued')::int AS queued,
       count(*) FILTER (WHERE state = 'running')::int AS running
FROM risk.tasks WHERE state IN ('queued', 'running')
"""
SESSIONS = """
SELECT usename, count(*)::int AS sessions
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'client backend' GROUP BY usename
"""


# What it says where a role's password, or its right to log in, is not what was issued.
LOGIN_REFUSALS = ("password authentication failed for user", "is not permitted to log in")


def is_login_refusal(error: str) -> bool:
    """Return True if the server refuses the role that logs in."""
    return any(text in error for text in LOGIN_REFUSALS)


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """One row of pg_settings: the value in the setting's own unit."""

    name: str
    value: str
    unit: str | None
    context: str
    source: str


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """The connection limit of a role (-1 is none) and its ALTER ROLE ... SET values.

    `attributes` are its others, as infra/config/roles.py has them.
    """

    name: str
    connection_limit: int
    settings: dict[str, str]
    attributes: dict[str, str] = field(default_factory=dict)


class PostgresAdmin:
    """One session straight to the server; use it in a `with` block.

    Raises psycopg.Error when the server refuses, TimedOutError when it does not answer.
    """

    def __init__(
        self,
        settings: OpsSettings,
        *,
        application_name: str = "sluice-ops",
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._call_seconds = call_seconds
        self._connection = psycopg.connect(
            settings.conninfo("operator", application_name=application_name),
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def settings(self) -> dict[str, ServerSetting]:
        """Return every setting as this session has it, by name."""
        return {
            row["name"]: ServerSetting(
                row["name"],
                row["setting"],
                row["unit"],
                row["context"],
                row["source"],
            )
            for row in self._rows(SETTINGS)
        }

    def file_faults(self) -> dict[str, str]:
        """Return the lines of the configuration files that cannot be used, by setting."""
        return {row["name"] or "?": row["error"] for row in self._rows(FILE_FAULTS)}

    def roles(self, names: list[str]) -> dict[str, RoleSettings]:
        """Return limits and settings of the roles that exist, by name."""
        rows = self._rows(ROLES, [names])
        return {row["rolname"]: _role(row) for row in rows}

    def may_connect(self) -> set[tuple[str, str]]:
        """Return each role that can log in, but superusers, with each database it may use."""
        return {(row["rolname"], row["datname"]) for row in self._rows(MAY_CONNECT)}

    def other_role_settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Return settings that roles have in one database, or every role: by `role@database`.

        `all` stands for every role.
        """
        rows = self._rows(OTHER_ROLE_SETTINGS, [names])
        return {row["name"]: _pairs(row["rolconfig"]) for row in rows}

    def password_digests(self) -> dict[str, str | None]:
        """Return the digest of each login role's verifier, None of a role that has no password.

        Nothing where the view that gives them is gone.
        """
        try:
            rows = self._rows(VERIFIER_DIGESTS)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            return {}
        return {row["rolname"]: row["digest"] for row in rows}

    def set_role_limit(self, role: str, connection_limit: int) -> None:
        """Set how many sessions a role may have; present ones stay."""
        statement = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}")
        self._execute(statement.format(sql.Identifier(role), sql.Literal(connection_limit)))

    def set_role_setting(self, role: str, name: str, value: str) -> None:
        """Set a setting of a role; it holds for sessions that begin afterwards."""
        statement = sql.SQL("ALTER ROLE {} SET {} = {}")
        parts = sql.Identifier(role), sql.Identifier(name), sql.Literal(value)
        self._execute(statement.format(*parts))

    def set_role_passwords(
        self, verifiers: Mapping[str, str], *, before_commit: Callable[[], None]
    ) -> None:
        """Set passwords by their SCRAM verifiers, all or none; present sessions stay.

        An exception of `before_commit` leaves the old ones.
        """
        # Not bound: ALTER ROLE takes no parameters. A verifier in a log would be a secret there.
        for quiet in ("log_min_error_statement = 'panic'", "log_min_duration_statement = -1"):
            self._execute(sql.SQL("SET " + quiet), may_fail=True)
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
        with self._connection.transaction():
            for role, verifier in verifiers.items():
                self._execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))
            before_commit()

    def reload(self, *, seconds: float = 5.0) -> bool:
        """Have the server read its files again; return True if it did within `seconds`.

        The postmaster reloads on its own time; pg_conf_load_time() says when it had.
        """
        before = self._load_time()
        self._rows("SELECT pg_catalog.pg_reload_conf()")
        return wait_until(lambda: self._load_time() != before, seconds=seconds, every=0.05)

    def activity(self) -> list[Row]:
        """Return the other client sessions, the oldest transaction first."""
        return self._rows(ACTIVITY)

    def blocked(self) -> list[Row]:
        """Return the sessions that wait for a lock, and the processes that hold it."""
        return self._rows(BLOCKED)

    def is_checkpoint_urgent(self) -> bool:
        """Return True if a checkpoint writes as fast as it can, and not spread over its time."""
        rows = self._rows(CHECKPOINTER)
        return any(
            row["wait_event"] not in ("CheckpointerMain", "CheckpointWriteDelay") for row in rows
        )

    def tasks(self) -> Row:
        """Return how many tasks are queued and running; a lock on the table is an error at once."""
        self._execute(sql.SQL("SET lock_timeout = '100ms'"))
        (row,) = self._rows(TASKS)
        return row

    def started_at(self) -> str:
        """Return when the server process was started: two runs of it differ in that."""
        (row,) = self._rows("SELECT pg_catalog.pg_postmaster_start_time()::text AS at")
        return str(row["at"])

    def is_standby(self) -> bool:
        """Return True if the server follows another and takes no writes."""
        (row,) = self._rows("SELECT pg_catalog.pg_is_in_recovery() AS standby")
        return bool(row["standby"])

    def ddl_version(self) -> str:
        """Return a text that is another one after each change of a column or a function."""
        (row,) = self._rows(DDL_VERSION)
        return str(row["version"])

    def sessions(self) -> dict[str, int]:
        """Return how many client sessions each role has now, this one included."""
        return {row["usename"]: row["sessions"] for row in self._rows(SESSIONS)}

    def checkpoint(self, *, seconds: float = 60.0) -> None:
        """Write everything to disk now, so that a restart is short."""
        self._execute(sql.SQL("CHECKPOINT"), seconds=seconds)

    def read(self, query: str, parameters: list[Any] | None = None) -> list[Row]:
        """Return the rows of a query that only one command has."""
        return self._rows(query, parameters)

    def ping(self) -> None:
        """Have a query answered."""
        self._rows("SELECT 1")

    def _load_time(self) -> object:
        (row,) = self._rows("SELECT pg_catalog.pg_conf_load_time() AS at")
        return row["at"]

    def _rows(self, query: str, parameters: list[Any] | None = None) -> list[Row]:
        with bounded(self._connection, self._call_seconds, query.split("\n")[0] or "a query"):
            return self._connection.execute(query.encode(), parameters).fetchall()

    def _execute(
        self,
        statement: sql.SQL | sql.Composed,
        *,
        seconds: float | None = None,
        may_fail: bool = False,
    ) -> None:
        with bounded(self._connection, seconds or self._call_seconds, "a command"):
            try:
                self._connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                if not may_fail:
                    raise


def _role(row: Row) -> RoleSettings:
    flags = {True: "on", False: "off"}
    attributes = {name: flags.get(one, str(one)) for name, one in row["attributes"].items()}
    return RoleSettings(row["rolname"], row["rolconnlimit"], _pairs(row["rolconfig"]), attributes)


def _pairs(entries: list[str]) -> dict[str, str]:
    parts = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in parts}
