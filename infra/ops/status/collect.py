"""Take a sample: every process asked at once, none able to delay the others.

Each is looked at several times: a queue is there at one instant and not at the next. What
waits or runs is then the mean of the looks, rounded; connections in use are the most of them.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import psycopg
from cryptography import x509

from infra.config.names import server_hop
from infra.config.settings import Value
from infra.ops import running
from infra.ops.clients import patroni, pgbouncer
from infra.ops.clients.app_control import Control, ProcessState
from infra.ops.clients.patroni import Instance
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import (
    Answer,
    Kept,
    OpsSettings,
    Target,
    TimedOutError,
    everywhere,
    first_line,
    resolve,
)
from infra.ops.running import CONTAINERS, Process, Running
from infra.ops.status.sample import (
    AppProcess,
    Certificate,
    Container,
    Disk,
    HostFacts,
    LastMinute,
    Pooler,
    PreparingClient,
    RoleSessions,
    Sample,
    Server,
    ServerPool,
    Session,
)

CALL_SECONDS = 3.0
LOOKS = 10
# A process that is slow to answer gets fewer looks instead of this many times the seconds.
PATIENCE = 3
# States of a container that has ended.
_ENDED = ("exited", "dead", "restarting")
_SECRETS = Path("/secrets")
_ADMIN_DATABASE = "pgbouncer"
_P95 = 0.95
_TOTALS = ("query_count", "xact_count", "query_time", "xact_time", "wait_time")
Totals = dict[str, dict[str, int]]
# A transaction that is at work sends its next statement sooner.
IDLE_SECONDS = 0.5
Rows = list[dict[str, Any]]
T = TypeVar("T")


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


class Collector:
    """Takes samples, each over `seconds`, in as many `looks`.

    Between two samples it keeps its sessions with PostgreSQL and PgBouncer's consoles.
    """

    def __init__(
        self,
        settings: OpsSettings,
        control: Control,
        *,
        recorded: Mapping[str, Value] | None,
        processors: int,
        host: HostFacts | None,
        seconds: float,
        looks: int = LOOKS,
        call_seconds: float = CALL_SECONDS,
        application_name: str = "sluice-ops",
    ) -> None:
        self._settings = settings
        self._control = control
        self._recorded = recorded
        self._processors = processors
        self._host = _with_reserve(host, settings.values["postgres"]["disk_reserve_mb"])
        self._seconds = seconds
        self._looks_max = looks
        self._session: dict[str, Any] = {
            "call_seconds": call_seconds,
            "application_name": application_name,
        }
        self._consoles = Kept[PgBouncerAdmin]()
        self._servers = Kept[PostgresAdmin]()

    def close(self) -> None:
        """End the sessions."""
        self._consoles.close()
        self._servers.close()

    def sample(self) -> Sample:
        """Look at every process; what does not answer says so in its part."""
        with ThreadPoolExecutor(4) as pool:
            instances = pool.submit(self._instances)
            app = pool.submit(self._app)
            poolers = pool.submit(self._poolers)
            server = pool.submit(self._server)
            processes, last_minute = app.result()
            return Sample(
                processes,
                poolers.result(),
                server.result(),
                self._host,
                certificates(_SECRETS),
                last_minute,
                instances.result(),
            )

    def _instances(self) -> tuple[Instance, ...]:
        return patroni.look(self._settings) if patroni.is_replicated(self._settings) else ()

    def _looks(self, look: Callable[[], T]) -> list[T]:
        """Look evenly within the seconds, at least once."""
        started, found = time.monotonic(), [look()]
        end = started + PATIENCE * self._seconds
        while len(found) < self._looks_max and time.monotonic() < end:
            due = started + len(found) * self._seconds / (self._looks_max - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            found.append(look())
        return found

    def _app(self) -> tuple[tuple[AppProcess, ...], LastMinute | None]:
        # All at once: the looks take the same second.
        answers = everywhere(self._control.targets(), self._states)
        found = [_app_process(self._control.service_of(one.target), one) for one in answers]
        found += [AppProcess(one, one, error=why) for one, why in self._control.absent().items()]
        states = (one.value[-1] for one in answers if one.value)
        minutes = [one.last_minute for one in states if one.last_minute]
        return tuple(found), last_minute(minutes) if minutes else None

    def _states(self, target: Target) -> list[ProcessState]:
        return self._looks(lambda: self._control.state(target))

    def _poolers(self) -> tuple[Pooler, ...]:
        targets = pgbouncer.replicas(self._settings)
        answers = everywhere(targets, self._pooler)
        self._consoles.close(but=targets)
        expected = int(self._settings.values["pgbouncer"]["replicas"])
        missing = [_missing_pooler() for _ in range(expected - len(targets))]
        found = [one.value or Pooler(str(one.target), error=one.error) for one in answers]
        return (*found, *missing)

    def _pooler(self, target: Target) -> Pooler:
        with self._consoles.session(
            target, lambda: PgBouncerAdmin(target, self._settings, **self._session)
        ) as admin:
            before = Counters(time.monotonic(), _totals(admin.show("STATS")))
            looks = self._looks(admin.pools)
            now = Counters(time.monotonic(), _totals(admin.show("STATS")))
            paused = admin.state().get("paused") == "yes"
            clients = admin.show("CLIENTS")
            databases = admin.databases()
        seen: dict[tuple[str, str], list[ServerPool]] = {}
        for row in (row for look in looks for row in look):
            name = row["database"]
            if name != _ADMIN_DATABASE and name in databases:
                pool = _pool(row, databases[name], before, now)
                seen.setdefault((pool.database, pool.user), []).append(pool)
        pools = tuple(pool_over(seen[key]) for key in sorted(seen))
        hops = {server_hop(row["host"]) for row in databases.values() if row["host"]}
        return Pooler(target.name, paused, " and ".join(sorted(hops)), pools, preparing(clients))

    def _server(self) -> Server:
        where = self._settings.values["postgres"]
        # A stopped container has no address; libpq would call that a fault of the name.
        if not resolve(where["host"], where["port"]):
            return Server(error="has no address: its container does not run")
        try:
            with self._servers.session(
                where["host"], lambda: PostgresAdmin(self._settings, **self._session)
            ) as admin:
                looks = self._looks(lambda: _look(admin))
                found = running.server(admin, self._settings, "postgres")
                server = _server(admin, found, looks, self._processors)
                return replace(server, outside=outside(found, self._recorded))
        except Exception as error:
            return Server(error=first_line(error))


def _with_reserve(host: HostFacts | None, reserve_mb: int) -> HostFacts | None:
    if host is None or host.disk is None:
        return host
    return replace(host, disk=replace(host.disk, reserve=reserve_mb << 20))


def _missing_pooler() -> Pooler:
    return Pooler("pgbouncer", error="a replica is not running")


def _app_process(service: str, answer: Answer[list[ProcessState]]) -> AppProcess:
    if answer.value is None:
        return AppProcess(service, answer.target.name, error=answer.error)
    pools, last = [state.pool for state in answer.value], answer.value[-1]
    return AppProcess(
        service,
        answer.target.name,
        size=last.pool.size,
        max_size=last.pool.max_size,
        in_use=max(pool.in_use for pool in pools),
        idle=_mean(pool.idle for pool in pools),
        waiting=_mean(pool.waiting for pool in pools),
        max_waiting=last.pool.max_waiting,
        needs_restart=last.needs_restart,
    )


def _mean(counts: Iterable[int]) -> int:
    return round(fmean(counts))


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


def _totals(rows: Rows) -> Totals:
    return {row["database"]: {name: int(row[f"total_{name}"]) for name in _TOTALS} for row in rows}


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


def _pool(
    row: dict[str, Any], database: dict[str, Any], before: Counters, now: Counters
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


def outside(server: Process, recorded: Mapping[str, Value] | None) -> tuple[str, ...] | None:
    """Return a line for what a role has that was not compiled; None where nothing was recorded.

    What waits for a restart was compiled, and is no such thing.
    """
    if recorded is None:
        return None
    found = Running((server,), recorded=recorded)
    return tuple(
        f"{one.setting} is {one.found}, compiled is {one.expected}: {one.cause}"
        for one in found.deviations(found.compiled)
        if one.setting.startswith("roles.") and not one.needs_restart
    )


def _server(
    admin: PostgresAdmin, found: Process, looks: Sequence[ServerLook], processors: int
) -> Server:
    activity = looks[-1].activity
    names = sorted({row["usename"] for row in activity if row["usename"]})
    limits = {name: role.connection_limit for name, role in admin.roles(names).items()}
    maximum = int(found.found["settings.max_connections"])
    # Last: it alone can meet a lock or a schema that is not there, and all else is known then.
    tasks: dict[str, int | None] = {}
    with suppress(psycopg.Error, TimedOutError):
        tasks = dict(admin.tasks())
    median = median_look(looks)
    blocked = tuple(_session(row) for row in median.blocked)
    return Server(
        max_connections=maximum,
        processors=processors,
        roles=tuple(_role(name, limits.get(name, -1), activity) for name in names),
        on_cpu=_mean(sum(map(_runs, look.activity)) for look in looks),
        on_disk=_mean(sum(map(_waits_for_disk, look.activity)) for look in looks),
        checkpointing=2 * sum(look.checkpointing for look in looks) >= len(looks),
        idle=idle(activity),
        oldest=next((_session(row) for row in activity if row["xact_seconds"] is not None), None),
        blocked=blocked,
        holders=_holders(blocked, median.activity),
        tasks_queued=tasks.get("queued"),
        tasks_running=tasks.get("running"),
    )


def _look(admin: PostgresAdmin) -> ServerLook:
    return ServerLook(admin.activity(), admin.blocked(), admin.is_checkpoint_urgent())


def median_look(looks: Sequence[ServerLook]) -> ServerLook:
    """Return the look with the median wait for a lock.

    Without a wait unless half of the looks saw one: a lock held for a moment delays nobody.
    """

    def longest(look: ServerLook) -> float:
        return max((float(row["wait_seconds"]) for row in look.blocked), default=0.0)

    return sorted(looks, key=longest)[len(looks) // 2]


def _runs(row: dict[str, Any]) -> bool:
    return row["state"] == "active" and not row["wait_event_type"]


def _waits_for_disk(row: dict[str, Any]) -> bool:
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


def _session(row: dict[str, Any]) -> Session:
    return Session(
        pid=row["pid"],
        user=row["usename"] or "?",
        seconds=float(row.get("wait_seconds") or row.get("xact_seconds") or 0.0),
        query=" ".join((row["query"] or "").split()),
        blocked_by=tuple(row.get("blocked_by") or ()),
        state=row.get("state") or "",
    )


def host_facts(text: str) -> HostFacts | None:
    """Return what infra/host/containers.sh found on the host: one JSON object a line.

    A line is a container, what one of them holds (`memory`), or `disk`. None when the host handed
    over nothing.

    Raises:
        ValueError: it is not what infra/host/containers.sh prints.

    """
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not lines:
            return None
        held = {one["memory"]["name"]: one["memory"]["bytes"] for one in lines if "memory" in one}
        containers = tuple(
            _container(one, held) for one in lines if one.get("service") in CONTAINERS
        )
        disk = next((Disk(**one["disk"]) for one in lines if "disk" in one), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return HostFacts(containers, disk)


def _container(found: dict[str, object], held: dict[str, int]) -> Container:
    return Container(
        service=str(found["service"]),
        name=str(found["name"]).lstrip("/"),
        state=str(found["state"]),
        since=str(found["finished" if found["state"] in _ENDED else "started"])[:19] + "Z",
        exit_code=int(str(found["exit_code"])),
        restarts=int(str(found["restarts"])),
        health=str(found["health"]),
        oom_killed=bool(found["oom_killed"]),
        memory=int(held.get(str(found["name"]), 0)),
        memory_limit=int(str(found["memory_limit"])),
    )


def certificates(directory: Path) -> tuple[Certificate, ...]:
    """Return every certificate of a directory that can be read, the first to expire first."""
    found = []
    for path in directory.glob("*.crt"):
        try:
            one = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            continue
        found.append(Certificate(path.name, (one.not_valid_after_utc - datetime.now(UTC)).days))
    return tuple(sorted(found, key=lambda one: (one.days, one.name)))
