"""What holds the path up now, and which knob that points to: a pure function of a sample.

A full queue backs up into the tier before it, so the tiers are judged from the database
upwards: the first that is short of something is the cause, those before it only show it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from infra.ops.status.sample import AppProcess, Pooler, Sample, ServerPool, Session

# A lock that is waited for longer is felt by requests.
BLOCKED_SECONDS = 0.2
# Share of max_connections from which new sessions begin to be refused.
NEARLY_ALL = 0.95
_KNOBS = {
    "risk": "PGBOUNCER_INTERACTIVE_POOL_SIZE",
    "risk_batch": "PGBOUNCER_BATCH_POOL_SIZE",
}
_MONITOR = "risk_monitor"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where it is tight, in one line for a reader, and the knob (empty: none would help)."""

    where: str
    line: str
    knob: str = ""


def bottleneck(sample: Sample) -> Verdict:
    """Return the one thing to look at first."""
    judges: tuple[Callable[[Sample], Verdict | None], ...] = (
        _unreachable,
        _paused,
        _locks,
        _logins,
        _servers_taken,
        _app_pools,
        _busy_server,
    )
    verdicts = (judge(sample) for judge in judges)
    return next((one for one in verdicts if one), Verdict("nothing", "nothing is short."))


def _unreachable(sample: Sample) -> Verdict | None:
    if not (found := sample.unreachable):
        return None
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Verdict("unreachable", f"{found[0]}{more}: what does not answer comes first.")


def _paused(sample: Sample) -> Verdict | None:
    paused = [pooler.name for pooler in sample.poolers if pooler.paused]
    if not paused:
        return None
    return Verdict("paused", f"{', '.join(paused)} is paused: every query waits for RESUME.")


def _locks(sample: Sample) -> Verdict | None:
    felt = [one for one in sample.server.blocked if one.seconds >= BLOCKED_SECONDS]
    if not felt:
        return None
    culprit = _root(felt, sample.server.oldest)
    line = (
        f"PostgreSQL: {len(felt)} session(s) wait for a lock, up to "
        f"{max(one.seconds for one in felt):.1f} s, held by {culprit}; end it, or make its "
        "transaction shorter. More connections would only wait too."
    )
    return Verdict("locks", line, "API_LOCK_TIMEOUT_MS")


def _root(blocked: list[Session], oldest: Session | None) -> str:
    """Name the sessions that block and are not blocked themselves."""
    waiting = {one.pid for one in blocked}
    roots = sorted({pid for one in blocked for pid in one.blocked_by} - waiting)
    if oldest and oldest.pid in roots:
        return f"process {oldest.pid} ({oldest.user}, {oldest.seconds:.1f} s)"
    return "process " + ", ".join(map(str, roots)) if roots else "each other"


def _logins(sample: Sample) -> Verdict | None:
    """Clients that wait while the replica has no server connection at all."""
    for pooler, pool in _pools(sample):
        if pool.clients_waiting and not pool.servers_active + pool.servers_idle:
            line = (
                f"PgBouncer {pooler.name} has no server connection for {pool.database}: "
                f"{pool.clients_waiting} client(s) wait until it has logged in to PostgreSQL."
            )
            return Verdict("server logins", line, "PGBOUNCER_SERVER_LOGIN_RETRY_SECONDS")
    return None


def _servers_taken(sample: Sample) -> Verdict | None:
    full = [(pooler, pool) for pooler, pool in _pools(sample) if _is_full(pool)]
    if not full:
        return None
    pooler, pool = max(full, key=lambda pair: pair[1].max_wait_seconds)
    line = (
        f"PgBouncer {pooler.name}: all {pool.servers_active} server connections of "
        f"{pool.database} are taken, {pool.clients_waiting} client(s) wait, the longest for "
        f"{pool.max_wait_seconds:.3f} s; "
    )
    return _behind_a_full_pool(sample, pool, line)


def _is_full(pool: ServerPool) -> bool:
    return pool.clients_waiting > 0 and pool.servers_active >= pool.pool_size > 0


def _behind_a_full_pool(sample: Sample, pool: ServerPool, line: str) -> Verdict:
    server = sample.server
    if server.on_cpu >= server.processors:
        why = (
            f"PostgreSQL runs {server.on_cpu} queries on {server.processors} processor(s): "
            "processors are short, more connections would not help."
        )
        return Verdict("postgres cpu", line + why, "POSTGRES_CPUS")
    if server.connections >= NEARLY_ALL * server.max_connections:
        why = f"PostgreSQL has {server.connections} of {server.max_connections} sessions."
        return Verdict("postgres sessions", line + why, "POSTGRES_MAX_CONNECTIONS")
    knob = _KNOBS.get(pool.database, "PGBOUNCER_INTERACTIVE_POOL_SIZE")
    return Verdict("pgbouncer pool", f"{line}PostgreSQL has room for more.", knob)


def _app_pools(sample: Sample) -> Verdict | None:
    short = [one for one in sample.app if _is_short(one)]
    if not short:
        return None
    worst = max(short, key=lambda one: one.waiting)
    idle = sum(pool.servers_idle for _, pool in _pools(sample))
    line = (
        f"{worst.name}: all {worst.in_use} connections of its pool are lent and "
        f"{worst.waiting} caller(s) wait, while PgBouncer has {idle} idle server connection(s)."
    )
    return Verdict("app pool", line, f"{worst.service.upper()}_POOL_MAX_SIZE")


def _is_short(process: AppProcess) -> bool:
    return process.waiting > 0 and process.in_use >= process.max_size > 0


def _busy_server(sample: Sample) -> Verdict | None:
    server = sample.server
    if server.on_cpu <= server.processors:
        return None
    line = (
        f"PostgreSQL runs {server.on_cpu} queries on {server.processors} processor(s); "
        "nothing queues in front of it yet."
    )
    return Verdict("postgres cpu", line, "POSTGRES_CPUS")


def _pools(sample: Sample) -> Iterator[tuple[Pooler, ServerPool]]:
    """Yield the pools that do work; the one of the health checks has one connection."""
    for pooler in sample.poolers:
        for pool in pooler.pools:
            if pool.database != _MONITOR:
                yield pooler, pool
