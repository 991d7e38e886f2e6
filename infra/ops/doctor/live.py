"""Read the running path, with the connections that every operator command has, and judge it.

What cannot be read, by right or because a process is down, is in the diagnosis as not judged; the
rest is judged all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from infra.config import clients, sizing
from infra.config.settings import Value
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import (
    OpsSettings,
    Target,
    TimedOutError,
    everywhere,
    first_line,
    resolve,
)
from infra.ops.doctor import checks
from infra.ops.doctor import findings as rules
from infra.ops.doctor.findings import Diagnosis, Finding, Rule, found
from infra.ops.doctor.scripts import read_with_placeholders
from infra.ops.doctor.statements import NotSqlError, settle
from infra.ops.running import Running
from infra.ops.status.collect import CALL_SECONDS, Collector
from infra.ops.status.sample import HostFacts, Sample

Row = dict[str, Any]

TRACK: Final = "pg_stat_statements.track_utility"
SAMPLE_SECONDS: Final = 1.0
# The longest that is judged anyway is shorter.
STATEMENTS: Final = """
SELECT r.rolname, s.queryid, s.calls, left(s.query, 300000) AS query
FROM public.pg_stat_statements AS s JOIN pg_catalog.pg_roles AS r ON r.oid = s.userid
WHERE r.rolname = ANY(%s) AND s.toplevel
ORDER BY r.rolname, s.calls DESC
"""
FORGOTTEN: Final = "SELECT dealloc::int AS dealloc FROM public.pg_stat_statements_info"
IDLE_LOCKS: Final = """
SELECT a.usename, a.pid, count(*)::int AS locks,
       extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS idle_seconds
FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.state = 'idle' AND a.usename = ANY(%s)
GROUP BY a.usename, a.pid, a.state_change
"""
# What is seen here was committed, so it has outlived its transaction.
TEMPORARY: Final = """
SELECT pg_catalog.pg_get_userbyid(c.relowner) AS usename, n.nspname, c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relpersistence = 't' AND c.relkind IN ('r', 'v', 'S')
  AND pg_catalog.pg_get_userbyid(c.relowner) = ANY(%s)
"""
AGES: Final = """
SELECT datname, age(datfrozenxid)::bigint AS transaction_ids,
       mxid_age(datminmxid)::bigint AS multixact_ids
FROM pg_catalog.pg_database WHERE datallowconn
"""
PREPARED: Final = """
SELECT database, owner, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
FROM pg_catalog.pg_prepared_xacts
"""
SLOTS: Final = """
SELECT slot_name, active, wal_status,
       pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS bytes
FROM pg_catalog.pg_replication_slots
"""
CHECKPOINTS: Final = """
SELECT num_timed::int AS timed, num_requested::int AS requested FROM pg_catalog.pg_stat_checkpointer
"""
TABLES: Final = """
SELECT s.schemaname, s.relname, s.n_live_tup::bigint AS live, s.n_dead_tup::bigint AS dead,
       coalesce(s.last_vacuum, s.last_autovacuum) IS NULL AS never,
       current_setting('autovacuum_vacuum_threshold')::float8
           + current_setting('autovacuum_vacuum_scale_factor')::float8 * s.n_live_tup AS threshold
FROM pg_catalog.pg_stat_user_tables AS s
"""
SEQUENCES: Final = """
SELECT schemaname, sequencename,
       CASE WHEN increment_by > 0
            THEN (last_value - min_value)::float8 / nullif(max_value - min_value, 0)
            ELSE (max_value - last_value)::float8 / nullif(max_value - min_value, 0) END AS used
FROM pg_catalog.pg_sequences WHERE NOT cycle
"""
# A last value that is NULL is one not taken yet, or one that may not be read.
HIDDEN_SEQUENCES: Final = """
SELECT seqrelid::regclass::text AS name FROM pg_catalog.pg_sequence
WHERE NOT has_sequence_privilege(seqrelid, 'SELECT, USAGE')
"""


# PgBouncer itself sends the SET of what it keeps for each client; and which statements were in one
# transaction is not known.
_NOT_OF_STATEMENTS: Final = (rules.TRACKED, rules.SEQUENCE_VALUE)


@dataclass(frozen=True, slots=True)
class Reading:
    """A query and what judges its rows; with `pooled` it takes the names of the pooled roles."""

    what: str
    query: str
    check: Callable[[list[Row]], Iterable[Finding]]
    pooled: bool = False


READINGS: Final = (
    Reading("advisory locks of idle sessions", IDLE_LOCKS, checks.idle_locks, pooled=True),
    Reading("temporary objects", TEMPORARY, checks.temporary_objects, pooled=True),
    Reading("age of transaction ids", AGES, checks.ages),
    Reading("prepared transactions", PREPARED, checks.prepared_transactions),
    Reading("replication slots", SLOTS, checks.replication_slots),
    Reading("checkpoints", CHECKPOINTS, checks.checkpoints),
    Reading("dead rows", TABLES, checks.tables),
    Reading("sequences", SEQUENCES, checks.sequences),
)


def examine(
    settings: OpsSettings, *, host: HostFacts | None, recorded: Mapping[str, Value] | None
) -> Diagnosis:
    """Look at every process for a second, then at what PostgreSQL knows of itself.

    `recorded` are the settings of the last compile.
    """
    made = Diagnosis()
    with closing(
        Collector(
            settings,
            app_control.connect(settings),
            processors=settings.values["postgres"]["processors"],
            host=host,
            recorded=recorded,
            seconds=SAMPLE_SECONDS,
        )
    ) as collector:
        sample = collector.sample()
    compiled = Running((), recorded=recorded or {}).compiled
    _judge_sample(sample, compiled.integer("CERTIFICATE_RENEW_DAYS"), made)
    for answer in everywhere(pgbouncer.replicas(settings), lambda one: _version(settings, one)):
        if answer.value is None:
            made.skip(f"version of {answer.target.name}", answer.error)
        else:
            made.count("checks")
            made.add(checks.pgbouncer_version(answer.target.name, answer.value))
    # In session mode a client may use its session as it likes.
    pooled = [one.user for one in sizing.pools(compiled) if one.mode != clients.SESSION]
    _judge_server(settings, made, pooled)
    for database in clients.databases(compiled):
        if not database.is_own:
            what = f"dead rows and sequences of the database {database.name}"
            made.skip(what, "only the services' own database is looked into")
    return made


def _judge_sample(sample: Sample, renew_days: int, made: Diagnosis) -> None:
    made.count("processes", len(sample.app) + len(sample.poolers) + 1 - len(sample.unreachable))
    made.add(checks.of_sample(sample, renew_days))
    for line in sample.unreachable:
        process, _, reason = line.partition(": ")
        made.skip(process, reason)
    if sample.host is None:
        made.skip("containers and disk", "the host was not asked; make doctor asks it")
    elif sample.host.disk is None:
        made.skip("disk", "PostgreSQL's container does not run")
    if not sample.certificates:
        made.skip("certificates", "none can be read")


def _version(settings: OpsSettings, target: Target) -> str:
    with PgBouncerAdmin(target, settings, call_seconds=CALL_SECONDS) as admin:
        return str(admin.show("VERSION")[0]["version"])


def _judge_server(settings: OpsSettings, made: Diagnosis, pooled: Sequence[str]) -> None:
    where = settings.values["postgres"]
    names = ["statements of pooled roles", "settings", *(one.what for one in READINGS)]
    try:
        if not resolve(where["host"], where["port"]):
            raise TimedOutError("postgres has no address: its container does not run")
        with PostgresAdmin(settings, call_seconds=CALL_SECONDS) as admin:
            judge_server(admin, made, pooled)
    except (psycopg.Error, TimedOutError, OSError) as error:
        for what in names:
            made.skip(what, first_line(error))


def judge_server(admin: PostgresAdmin, made: Diagnosis, pooled: Sequence[str]) -> None:
    """Judge what a session straight to the server can see; `pooled` are the roles of pools."""
    with _judged("settings", made):
        values = {name: one.value for name, one in admin.settings().items()}
        made.add(checks.server_settings(values))
    with _judged("statements of pooled roles", made):
        _judge_statements(admin, made, list(pooled))
    for one in READINGS:
        with _judged(one.what, made):
            made.add(one.check(admin.read(one.query, [list(pooled)] if one.pooled else None)))
    with _judged("sequences that may be read", made):
        for row in admin.read(HIDDEN_SEQUENCES):
            made.skip(f"sequence {row['name']}", "sluice_operator may not read it")


@contextmanager
def _judged(what: str, made: Diagnosis) -> Iterator[None]:
    """Count what the block judges; what it raises is why that was not judged."""
    try:
        yield
    except (psycopg.Error, TimedOutError) as error:
        made.skip(what, first_line(error))
    else:
        made.count("checks")


def _judge_statements(admin: PostgresAdmin, made: Diagnosis, pooled: list[str]) -> None:
    """Judge the statements that pooled roles have sent, by the rules that sources are judged by."""
    for role in admin.roles(pooled).values():
        if role.settings.get(TRACK) != "on":
            made.skip(f"SET, LISTEN and the like of {role.name}", f"{TRACK} is not on for the role")
    for row in admin.read(FORGOTTEN):
        if row["dealloc"]:
            made.skip("rare statements", "pg_stat_statements was full and has forgotten some")
    calls: Counter[tuple[str, Rule, str]] = Counter()
    for row in admin.read(STATEMENTS, [pooled]):
        try:
            statements = read_with_placeholders(row["query"])
        except NotSqlError:
            # The parser's words would be a part of the text.
            made.skip(f"statement {row['queryid']} of {row['rolname']}", "is not complete SQL")
            continue
        made.count("statements")
        for hit in settle(statements):
            if hit.rule not in _NOT_OF_STATEMENTS:
                calls[row["rolname"], hit.rule, hit.evidence] += row["calls"]
    made.add(
        found(rule, role, f"{evidence}; calls: {number}")
        for (role, rule, evidence), number in calls.items()
    )
