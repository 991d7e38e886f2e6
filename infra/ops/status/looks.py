"""What several looks at a process come to: pure functions of the rows that it gave.

What waits or runs is the mean of the looks, rounded; connections in use are the most of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from infra.ops.clients.app_control import ProcessState
from infra.ops.status.sample import (
    AppProcess,
    PreparingClient,
    RoleSessions,
    Server,
    ServerPool,
    Session,
)

_ADMIN_DATABASE = "pgbouncer"
_TOTALS = ("query_count", "xact_count", "query_time", "xact_time", "wait_time")
Totals = dict[str, dict[str, int]]
# A transaction that is at work sends its next statement sooner.
IDLE_SECONDS = 0.5
Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True, slots=True)
class ServerLook:
    """One look at PostgreSQL: its sessions, those that wait for a lock, and its checkpoint."""

    activity: Rows
    blocked: Rows = field(default_factory=list)
    checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class Counters:
    """What one replica has counted since its start, by database entry, and when."""

    at: float
    totals: Totals


def _mean(counts: Iterable[int]) -> int:
    return round(fmean(counts))


def process_over(service: str, name: str, states: Sequence[ProcessState]) -> AppProcess:
    """Return what several looks at one process of api or worker come to."""
    pools, last = [state.pool for state in states], states[-1]
    return AppProcess(
        service,
        name,
        size=last.pool.size,
        max_size=last.pool.max_size,
        in_use=max(pool.in_use for pool in pools),
        idle=_mean(pool.idle for pool in pools),
        waiting=_mean(pool.waiting for pool in pools),
        max_waiting=last.pool.max_waiting,
        needs_restart=last.needs_restart,
    )


def totals(rows: Rows) -> Totals:
    """Return what SHOW STATS has counted, by database entry."""
    return {row["database"]: {name: int(row[f"total_{name}"]) for name in _TOTALS} for row in rows}


def pools_over(
    looks: Iterable[Rows], databases: Mapping[str, Row], before: Counters, now: Counters
) -> tuple[ServerPool, ...]:
    """Return what several looks at SHOW POOLS come to, without the admin console's own pool."""
    seen: dict[tuple[str, str], list[ServerPool]] = {}
    for row in (row for look in looks for row in look):
        name = row["database"]
        if name != _ADMIN_DATABASE and name in databases:
            pool = _pool(row, databases[name], before, now)
            seen.setdefault((pool.database, pool.user), []).append(pool)
    return tuple(pool_over(seen[key]) for key in sorted(seen))


def pool_over(looks: Sequence[ServerPool]) -> ServerPool:
    """Return what several looks at one pool come to."""
    return replace(
        looks[-1],
        clients_waiting=_mean(one.clients_waiting for one in looks),
        servers_active=max(one.servers_active for one in looks),
        servers_idle=_mean(one.servers_idle for one in looks),
        max_wait_seconds=max(one.max_wait_seconds for one in looks),
    )


def preparing(clients: Rows) -> PreparingClient | None:
    """Return the client of SHOW CLIENTS with most prepared statements, if any has one."""
    row = max(clients, key=lambda one: int(one["prepared_statements"]), default=None)
    if row is None or not int(row["prepared_statements"]):
        return None
    return PreparingClient(
        id=int(row["id"]),
        user=row["user"],
        address=row["addr"],
        application_name=row["application_name"],
        statements=int(row["prepared_statements"]),
    )


def _pool(row: Row, database: Row, before: Counters, now: Counters) -> ServerPool:
    return ServerPool(
        database=row["database"],
        user=row["user"],
        clients_active=int(row["cl_active"]),
        clients_waiting=int(row["cl_waiting"]),
        servers_active=int(row["sv_active"]),
        # Used and tested are idle ones that are due for, or in, a check.
        servers_idle=int(row["sv_idle"]) + int(row["sv_used"]) + int(row["sv_tested"]),
        servers_login=int(row["sv_login"]),
        max_wait_seconds=int(row["maxwait"]) + int(row["maxwait_us"]) / 1e6,
        pool_size=int(database["pool_size"]),
        reserve_size=int(database["reserve_pool_size"]),
        **rates(row["database"], before, now),
    )


def rates(database: str, before: Counters, now: Counters) -> dict[str, float]:
    """Return rates and mean times between two looks; all zero for a pool that is new.

    Taken from the totals: the averages of SHOW STATS are of the last full period, which may
    be a minute old.
    """
    new, old = now.totals.get(database, {}), before.totals.get(database, {})
    if not old or not new:
        return {}
    done = {name: new[name] - old[name] for name in _TOTALS}
    seconds = max(now.at - before.at, 1e-6)
    return {
        "queries_per_second": done["query_count"] / seconds,
        "transactions_per_second": done["xact_count"] / seconds,
        "query_ms": done["query_time"] / 1000 / max(done["query_count"], 1),
        "transaction_ms": done["xact_time"] / 1000 / max(done["xact_count"], 1),
        "wait_ms": done["wait_time"] / 1000 / max(done["xact_count"], 1),
    }


def users(look: ServerLook) -> list[str]:
    """Return the roles that have sessions."""
    return sorted({row["usename"] for row in look.activity if row["usename"]})


def server_over(looks: Sequence[ServerLook], limits: Mapping[str, int]) -> Server:
    """Return what several looks at PostgreSQL's sessions come to; `limits` are those of roles."""
    activity = looks[-1].activity
    median = median_look(looks)
    blocked = tuple(_session(row) for row in median.blocked)
    return Server(
        roles=tuple(_role(name, limits.get(name, -1), activity) for name in users(looks[-1])),
        on_cpu=_mean(sum(map(_runs, look.activity)) for look in looks),
        on_disk=_mean(sum(map(_waits_for_disk, look.activity)) for look in looks),
        checkpointing=2 * sum(look.checkpointing for look in looks) >= len(looks),
        idle=idle(activity),
        oldest=next((_session(row) for row in activity if row["xact_seconds"] is not None), None),
        blocked=blocked,
        holders=_holders(blocked, median.activity),
    )


def median_look(looks: Sequence[ServerLook]) -> ServerLook:
    """Return the look with the median wait for a lock.

    Without a wait unless half of the looks saw one: a lock held for a moment delays nobody.
    """

    def longest(look: ServerLook) -> float:
        return max((float(row["wait_seconds"]) for row in look.blocked), default=0.0)

    return sorted(looks, key=longest)[len(looks) // 2]


def _runs(row: Row) -> bool:
    return row["state"] == "active" and not row["wait_event_type"]


def _waits_for_disk(row: Row) -> bool:
    """Return True if the session reads or writes, or waits for who writes the log for it."""
    on_log = row["wait_event_type"] == "LWLock" and str(row["wait_event"]).startswith("WAL")
    return row["state"] == "active" and (row["wait_event_type"] == "IO" or on_log)


def idle(activity: Rows) -> tuple[Session, ...]:
    """Return the sessions in a transaction that have sent nothing lately, the longest first."""
    found = (
        replace(_session(row), seconds=float(row["query_seconds"]))
        for row in activity
        if (row["state"] or "").startswith("idle in transaction")
        and row["query_seconds"] >= IDLE_SECONDS
    )
    return tuple(sorted(found, key=lambda one: -one.seconds))


def _holders(blocked: Iterable[Session], activity: Rows) -> tuple[Session, ...]:
    pids = {pid for one in blocked for pid in one.blocked_by}
    return tuple(_session(row) for row in activity if row["pid"] in pids)


def _role(name: str, limit: int, activity: Rows) -> RoleSessions:
    states = [row["state"] or "starting" for row in activity if row["usename"] == name]
    return RoleSessions(name, limit, {state: states.count(state) for state in sorted(set(states))})


def _session(row: Row) -> Session:
    return Session(
        pid=row["pid"],
        user=row["usename"] or "?",
        seconds=float(row.get("wait_seconds") or row.get("xact_seconds") or 0.0),
        query=" ".join((row["query"] or "").split()),
        blocked_by=tuple(row.get("blocked_by") or ()),
        state=row.get("state") or "",
    )
