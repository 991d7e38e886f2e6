"""Take a sample: every process asked at once, none able to hold up the others."""

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from infra.ops import pgbouncer_admin
from infra.ops.app_control import Control, ProcessState
from infra.ops.bounded import TimedOutError
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.postgres_admin import PostgresAdmin
from infra.ops.settings import OpsSettings
from infra.ops.status import host_facts
from infra.ops.status.sample import (
    AppProcess,
    HostFacts,
    LastMinute,
    Pooler,
    RoleSessions,
    Sample,
    Server,
    ServerPool,
    Session,
)
from infra.ops.targets import Answer, Target, everywhere, first_line, resolve

CALL_SECONDS = 3.0
_SECRETS = Path("/secrets")
_ADMIN_DATABASE = "pgbouncer"
_P95 = 0.95
_TOTALS = ("query_count", "xact_count", "query_time", "xact_time", "wait_time")
Totals = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Counters:
    """What one replica has counted since its start, by database entry, and when."""

    at: float
    totals: Totals


class Collector:
    """Takes samples; keeps the counters of the last one, for rates between the two."""

    def __init__(
        self, settings: OpsSettings, control: Control, *, processors: int, host: HostFacts | None
    ) -> None:
        self._settings = settings
        self._control = control
        self._processors = processors
        self._host = _with_reserve(host, settings.values["postgres"]["disk_reserve_mb"])
        self._before: dict[str, Counters] = {}

    def sample(self) -> Sample:
        """Look at every process now; what does not answer says so in its part."""
        with ThreadPoolExecutor(3) as pool:
            app = pool.submit(self._app)
            poolers = pool.submit(self._poolers)
            server = pool.submit(self._server)
            processes, last_minute = app.result()
            return Sample(
                processes,
                poolers.result(),
                server.result(),
                self._host,
                host_facts.certificates(_SECRETS),
                last_minute,
            )

    def _app(self) -> tuple[tuple[AppProcess, ...], LastMinute | None]:
        found: list[AppProcess] = []
        minutes: list[dict[str, Any]] = []
        for service, expected in self._control.processes.items():
            targets = self._control.targets(service)
            answers = everywhere(targets, self._control.state)
            found += [_app_process(service, answer) for answer in answers]
            found += [_missing(service) for _ in range(expected - len(targets))]
            states = (answer.value for answer in answers)
            minutes += [one.last_minute for one in states if one and one.last_minute]
        return tuple(found), last_minute(minutes) if minutes else None

    def _poolers(self) -> tuple[Pooler, ...]:
        targets = pgbouncer_admin.replicas(self._settings)
        answers = everywhere(targets, self._pooler)
        expected = int(self._settings.values["pgbouncer"]["replicas"])
        missing = [_missing_pooler() for _ in range(expected - len(targets))]
        found = [one.value or Pooler(str(one.target), error=one.error) for one in answers]
        return (*found, *missing)

    def _pooler(self, target: Target) -> Pooler:
        with PgBouncerAdmin(target, self._settings, call_seconds=CALL_SECONDS) as admin:
            now = Counters(time.monotonic(), _totals(admin.show("STATS")))
            paused = admin.state().get("paused") == "yes"
            databases, pools = admin.databases(), admin.pools()
        before = self._before.get(target.name)
        self._before[target.name] = now
        shown = tuple(
            _pool(row, databases[row["database"]], before, now)
            for row in pools
            if row["database"] != _ADMIN_DATABASE and row["database"] in databases
        )
        return Pooler(target.name, paused, shown)

    def _server(self) -> Server:
        where = self._settings.values["postgres"]
        # A stopped container has no address; libpq would call that a fault of the name.
        if not resolve(where["host"], where["port"]):
            return Server(error="has no address: its container does not run")
        try:
            with PostgresAdmin(self._settings, call_seconds=CALL_SECONDS) as admin:
                return _server(admin, self._processors)
        except Exception as error:
            return Server(error=first_line(error))


def _with_reserve(host: HostFacts | None, reserve_mb: int) -> HostFacts | None:
    if host is None or host.disk is None:
        return host
    return replace(host, disk=replace(host.disk, reserve=reserve_mb << 20))


def _missing(service: str) -> AppProcess:
    return AppProcess(service, service, error="a process is not running")


def _missing_pooler() -> Pooler:
    return Pooler("pgbouncer", error="a replica is not running")


def _app_process(service: str, answer: Answer[ProcessState]) -> AppProcess:
    if answer.value is None:
        return AppProcess(service, answer.target.name, error=answer.error)
    state = answer.value
    return AppProcess(
        service,
        answer.target.name,
        size=state.pool.size,
        max_size=state.pool.max_size,
        in_use=state.pool.in_use,
        idle=state.pool.idle,
        waiting=state.pool.waiting,
        max_waiting=state.pool.max_waiting,
        needs_restart=state.needs_restart,
    )


def last_minute(processes: Iterable[dict[str, Any]]) -> LastMinute:
    """Sum up what the api processes say: `errors`, and pairs of time and count in `buckets`."""
    errors, counts = 0, Counter[float]()
    for one in processes:
        errors += one["errors"]
        for seconds, count in one["buckets"]:
            counts[seconds] += count
    requests, reached, p95 = counts.total(), 0, None
    for seconds in sorted(counts):
        reached += counts[seconds]
        if reached >= _P95 * requests:
            p95 = seconds
            break
    return LastMinute(requests, errors, p95)


def _totals(rows: list[dict[str, Any]]) -> Totals:
    return {row["database"]: {name: int(row[f"total_{name}"]) for name in _TOTALS} for row in rows}


def _pool(
    row: dict[str, Any], database: dict[str, Any], before: Counters | None, now: Counters
) -> ServerPool:
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


def rates(database: str, before: Counters | None, now: Counters) -> dict[str, float]:
    """Return rates and mean times between two looks; all zero without an earlier one.

    Taken from the totals: the averages of SHOW STATS are of the last full period, which may
    be a minute old. Counters that went back belong to a restarted process.
    """
    new = now.totals.get(database, {})
    old = before.totals.get(database, {}) if before else {}
    if not before or not old or any(new.get(name, 0) < old[name] for name in _TOTALS):
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


def _server(admin: PostgresAdmin, processors: int) -> Server:
    activity = admin.activity()
    names = sorted({row["usename"] for row in activity if row["usename"]})
    blocked = tuple(_session(row) for row in admin.blocked())
    limits = {name: role.connection_limit for name, role in admin.roles(names).items()}
    maximum = int(admin.settings()["max_connections"].value)
    # Last: it alone can meet a lock or a schema that is not there, and all else is known then.
    tasks: dict[str, int | None] = {}
    with suppress(psycopg.Error, TimedOutError):
        tasks = dict(admin.tasks())
    return Server(
        max_connections=maximum,
        processors=processors,
        roles=tuple(_role(name, limits.get(name, -1), activity) for name in names),
        on_cpu=sum(row["state"] == "active" and not row["wait_event_type"] for row in activity),
        oldest=next((_session(row) for row in activity if row["xact_seconds"] is not None), None),
        blocked=blocked,
        holders=_holders(blocked, activity),
        tasks_queued=tasks.get("queued"),
        tasks_running=tasks.get("running"),
    )


def _holders(blocked: Iterable[Session], activity: list[dict[str, Any]]) -> tuple[Session, ...]:
    pids = {pid for one in blocked for pid in one.blocked_by}
    return tuple(_session(row) for row in activity if row["pid"] in pids)


def _role(name: str, limit: int, activity: list[dict[str, Any]]) -> RoleSessions:
    states = [row["state"] or "starting" for row in activity if row["usename"] == name]
    return RoleSessions(name, limit, {state: states.count(state) for state in sorted(set(states))})


def _session(row: dict[str, Any]) -> Session:
    return Session(
        pid=row["pid"],
        user=row["usename"] or "?",
        seconds=float(row.get("wait_seconds") or row.get("xact_seconds") or 0.0),
        query=" ".join((row["query"] or "").split()),
        blocked_by=tuple(row.get("blocked_by") or ()),
        state=row.get("state") or "",
    )
