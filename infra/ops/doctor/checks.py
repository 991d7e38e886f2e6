"""What is wrong with the running path: pure functions of what was read from it.

A check takes the rows of its query, or the sample that `status` takes, and yields findings. None of
them shows the text of a statement, which may hold a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from infra.config.names import MONITOR_ENTRY, SERVICES
from infra.ops.doctor.findings import Finding, Severity
from infra.ops.status.bottleneck import BLOCKED_SECONDS, OPEN_SECONDS, bottleneck
from infra.ops.status.sample import Sample, Server, ServerPool, Session

Row = dict[str, Any]

# Earlier ones let one user of auth_file log in as another (CVE-2026-107350).
PGBOUNCER_FLOOR: Final = (1, 26, 1)
# By major version; earlier ones read attributes of composite values unchecked (CVE-2026-6460).
POSTGRESQL_FLOOR: Final = {17: 12}
# Of the 2.1 billion that there are; the server itself warns with 40 million left.
_AGE_WARNING, _AGE_CRITICAL = 1_000_000_000, 1_600_000_000
_SLOT_BYTES: Final = 1 << 30
_DEAD_ROWS, _DEAD_TIMES = 10_000, 4
_NEVER_VACUUMED_ROWS: Final = 100_000
_SEQUENCE_WARNING, _SEQUENCE_CRITICAL = 0.7, 0.9
_CHECKPOINTS: Final = 20

_WARNING, _CRITICAL, _NOTE = Severity.WARNING, Severity.CRITICAL, Severity.NOTE
# A server connection that is replaced takes its session with it.
_RECONNECT: Final = "make reconnect ends it with the server connection. "
_DEAD_TUPLES: Final = (
    "Look for a transaction that is open for long, then lower the table's "
    "autovacuum_vacuum_scale_factor; VACUUM it once."
)


def of_sample(sample: Sample, renew_days: int) -> Iterator[Finding]:
    """Judge what `status` sees of the whole path."""
    yield from _bottleneck(sample)
    yield from _sessions(sample.server)
    yield from _pools(sample)
    for line in sample.server.backups.problems if sample.server.backups else ():
        meaning = "What is lost now may not come back as it was."
        remedy = "make backups; docs/backups.md, When something is wrong."
        yield Finding(_CRITICAL, "backups", "postgres", line, meaning, remedy)
    for one in sample.certificates:
        if one.days <= renew_days:
            severity = _CRITICAL if one.days < 0 else _WARNING
            evidence = f"expires in {one.days} days" if one.days >= 0 else "has expired"
            meaning = "A certificate expires: no new connection is made with it then."
            remedy = "make rotate-certificates; with your own pair: FROM=directory."
            yield Finding(severity, "certificate", one.name, evidence, meaning, remedy)
    for container in sample.host.containers if sample.host else ():
        if container.restarts:
            evidence = f"{container.restarts} restarts, the last at {container.since}"
            meaning = "Docker has started the container again after it ended."
            remedy = f"docker logs {container.name}"
            yield Finding(_NOTE, "restarts", container.name, evidence, meaning, remedy)
    for process in sample.app:
        if process.needs_restart:
            meaning = "Settings that were compiled wait for a restart."
            settings = ", ".join(process.needs_restart)
            remedy = "make apply RESTART=yes"
            yield Finding(_NOTE, "waiting-settings", process.name, settings, meaning, remedy)


def _bottleneck(sample: Sample) -> Iterator[Finding]:
    verdict = bottleneck(sample)
    # Locks, full pools and open transactions are found below, each of them.
    if verdict.where in ("none", "locks", "pgbouncer pool", "postgres transaction"):
        return
    stops = bool(sample.unreachable) or verdict.where in ("disk full", "paused")
    remedy = "; ".join(filter(None, (verdict.setting, *verdict.command.splitlines())))
    severity = _CRITICAL if stops else _WARNING
    meaning = "What make status names as the current bottleneck."
    yield Finding(severity, "bottleneck", verdict.where, verdict.line, meaning, remedy)


def _sessions(server: Server) -> Iterator[Finding]:
    oldest = server.oldest
    if oldest and oldest.seconds >= OPEN_SECONDS:
        yield Finding(
            _WARNING,
            "open-transaction",
            _who(oldest),
            f"{oldest.state}, open for {oldest.seconds:.0f} s",
            "A transaction is open for long: it keeps a server connection, its locks, and the "
            "dead rows of every table.",
            "Commit earlier, or set idle_in_transaction_session_timeout of its role; "
            f"make psql: SELECT pg_terminate_backend({oldest.pid});",
        )
    holders = {one.pid: one for one in server.holders}
    for one in server.blocked:
        if one.seconds >= BLOCKED_SECONDS:
            by = (
                _who(holders[pid]) + f", {holders[pid].state}" if pid in holders else f"{pid}"
                for pid in one.blocked_by
            )
            yield Finding(
                _WARNING,
                "blocked-session",
                _who(one),
                f"waits {one.seconds:.1f} s for {'; '.join(by) or 'a lock'}",
                "A session waits for a lock that another one holds.",
                "Make the transaction of the holder shorter, or end it with pg_terminate_backend.",
            )


def _who(one: Session) -> str:
    return f"process {one.pid} ({one.user})"


def _pools(sample: Sample) -> Iterator[Finding]:
    answered = [one for one in sample.poolers if not one.error]
    for pooler in answered:
        for pool in pooler.pools:
            if pool.database != MONITOR_ENTRY and _is_full(pool):
                yield Finding(
                    _WARNING,
                    "full-pool",
                    f"{pooler.name} {pool.database}",
                    f"{pool.servers_active} of {pool.pool_size} server connections busy, "
                    f"{pool.clients_waiting} clients wait, up to {pool.max_wait_seconds:.1f} s",
                    "Every server connection of a pool is in use and clients wait for one.",
                    "make status says whether a larger pool would help.",
                )
    for client in SERVICES if answered and not sample.unreachable else ():
        pools = [p for one in answered for p in one.pools if p.database == client.entry]
        if not any(pool.clients_active + pool.clients_waiting for pool in pools):
            yield Finding(
                _NOTE,
                "unused-pool",
                f"PgBouncer entry {client.entry}",
                "no client on any replica",
                "No client uses a pool that the budget keeps connections for.",
                f"Lower {client.server_pool_size}, or look why {client.service} does not connect.",
            )


def _is_full(pool: ServerPool) -> bool:
    return pool.clients_waiting > 0 and pool.servers_active >= pool.pool_size > 0


def idle_locks(rows: list[Row]) -> Iterator[Finding]:
    """Judge advisory locks of pooled sessions that are in no transaction."""
    for row in rows:
        yield Finding(
            _CRITICAL,
            "idle-advisory-lock",
            f"process {row['pid']} ({row['usename']})",
            f"{row['locks']} held, idle for {row['idle_seconds']:.0f} s",
            "A server connection that no client has holds an advisory lock of its session: "
            "nobody can be sure to release it.",
            _RECONNECT + "Then take pg_advisory_xact_lock instead.",
        )


def temporary_objects(rows: list[Row]) -> Iterator[Finding]:
    """Judge temporary objects of pooled roles that outlived their transaction."""
    for row in rows:
        yield Finding(
            _CRITICAL,
            "left-temporary-object",
            row["usename"],
            f"{row['nspname']}.{row['relname']}",
            "A temporary object stays with a server connection: it hides the table of the same "
            "name from whichever client comes next.",
            _RECONNECT + "Then create it ON COMMIT DROP.",
        )


def ages(rows: list[Row]) -> Iterator[Finding]:
    """Judge how near each database is to the end of its transaction and multixact ids."""
    for row in rows:
        for what in ("transaction ids", "multixact ids"):
            age = row[what.replace(" ", "_")]
            if age >= _AGE_WARNING:
                yield Finding(
                    _CRITICAL if age >= _AGE_CRITICAL else _WARNING,
                    "wraparound",
                    f"database {row['datname']}",
                    f"the oldest of its {what} is {age:,} old",
                    "Vacuum does not get at old rows; at 2.1 billion the server takes no writes.",
                    "End open and prepared transactions and drop unused replication slots, then "
                    "VACUUM the tables with the oldest relfrozenxid.",
                )


def prepared_transactions(rows: list[Row]) -> Iterator[Finding]:
    """Judge prepared transactions that nobody has ended."""
    for row in rows:
        if row["seconds"] >= OPEN_SECONDS:
            yield Finding(
                _WARNING,
                "prepared-transaction",
                f"database {row['database']} ({row['owner']})",
                f"prepared {row['seconds']:.0f} s ago",
                "A prepared transaction keeps its locks and old rows, through restarts too.",
                "COMMIT PREPARED or ROLLBACK PREPARED; pg_prepared_xacts has its name.",
            )


def replication_slots(rows: list[Row]) -> Iterator[Finding]:
    """Judge replication slots that keep write-ahead log."""
    for row in rows:
        held = row["bytes"] or 0
        if not row["active"] or held >= _SLOT_BYTES or row["wal_status"] in ("unreserved", "lost"):
            yield Finding(
                _WARNING,
                "replication-slot",
                f"slot {row['slot_name']}",
                f"{'active' if row['active'] else 'not active'}, {row['wal_status']}, "
                f"keeps {held >> 20} MiB of write-ahead log",
                "A replication slot keeps the write-ahead log until its reader has it.",
                "Start its reader, or SELECT pg_drop_replication_slot(NAME).",
            )


def checkpoints(rows: list[Row]) -> Iterator[Finding]:
    """Judge whether checkpoints come because of the log's size rather than the time."""
    for row in rows:
        if row["requested"] >= _CHECKPOINTS and row["requested"] > row["timed"]:
            yield Finding(
                _NOTE,
                "requested-checkpoints",
                "postgres",
                f"{row['requested']} requested, {row['timed']} timed",
                "More checkpoints were requested than came by time: by the size of the log, by "
                "restarts or by hand. Each makes the next writes more expensive.",
                "Where it goes on under load: a larger POSTGRES_MAX_WAL_MB.",
            )


def tables(rows: list[Row]) -> Iterator[Finding]:
    """Judge tables whose dead rows autovacuum does not keep up with."""
    for row in rows:
        name, dead = f"{row['schemaname']}.{row['relname']}", row["dead"]
        if dead >= _DEAD_ROWS and dead >= _DEAD_TIMES * row["threshold"]:
            evidence = f"{dead:,} dead rows; autovacuum begins at {row['threshold']:,.0f}"
            meaning = "Autovacuum does not keep up with a table, or cannot remove its dead rows."
            yield Finding(_WARNING, "dead-rows", name, evidence, meaning, _DEAD_TUPLES)
        elif row["live"] >= _NEVER_VACUUMED_ROWS and row["never"]:
            evidence = f"{row['live']:,} rows"
            meaning = "A table was never vacuumed since its statistics began."
            remedy = "Wait for autovacuum, or VACUUM (ANALYZE) it once."
            yield Finding(_NOTE, "never-vacuumed", name, evidence, meaning, remedy)


def sequences(rows: list[Row]) -> Iterator[Finding]:
    """Judge how much of each sequence is used."""
    for row in rows:
        if row["used"] is not None and row["used"] >= _SEQUENCE_WARNING:
            yield Finding(
                _CRITICAL if row["used"] >= _SEQUENCE_CRITICAL else _WARNING,
                "sequence",
                f"{row['schemaname']}.{row['sequencename']}",
                f"{100 * row['used']:.0f} % of its values are used",
                "A sequence is near its end; then every INSERT that takes a value fails.",
                "Make column and sequence bigint (ALTER TABLE ..., ALTER SEQUENCE ... AS bigint).",
            )


def server_settings(settings: dict[str, str]) -> Iterator[Finding]:
    """Judge the server's version and settings without which nothing is vacuumed."""
    number = int(settings["server_version_num"])
    major, minor = number // 10000, number % 10000
    if minor < POSTGRESQL_FLOOR.get(major, 0):
        yield _old("postgres", f"PostgreSQL {major}.{minor}", f"{major}.{POSTGRESQL_FLOOR[major]}")
    for name in ("autovacuum", "track_counts"):
        if settings[name] == "off":
            meaning = "Autovacuum does not run: tables grow, and transaction ids run out."
            remedy = "Take the line out of postgresql.extra.conf, or out of the command line."
            yield Finding(_CRITICAL, "autovacuum-off", "postgres", f"{name} off", meaning, remedy)


def pgbouncer_version(process: str, text: str) -> Iterator[Finding]:
    """Judge what SHOW VERSION says, as `PgBouncer 1.26.1`."""
    version = text.split()[-1]
    parts = tuple(int(part) for part in version.split(".") if part.isdigit())
    if parts < PGBOUNCER_FLOOR:
        yield _old(process, f"PgBouncer {version}", ".".join(map(str, PGBOUNCER_FLOOR)))


def _old(process: str, version: str, floor: str) -> Finding:
    meaning = f"The version has a known security fault that {floor} does not have."
    remedy = "make build, then make restart-postgres or make restart-pgbouncer."
    return Finding(_CRITICAL, "version", process, version, meaning, remedy)
