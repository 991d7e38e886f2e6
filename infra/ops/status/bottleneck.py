"""The current bottleneck, and the setting that it points to: a pure function of a sample.

A full queue backs up into the tier before it, so the tiers are judged from the database
upwards: the first that has too little of something is the cause, those before it only show it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from infra.config import clients
from infra.config.names import API, ETCD, INSTANCES, MONITOR_ENTRY, SERVICES
from infra.ops.clients import patroni
from infra.ops.clients.postgres import is_login_refusal
from infra.ops.running import CONTAINERS, TIERS
from infra.ops.status.sample import (
    AppProcess,
    Container,
    HostFacts,
    Pooler,
    Sample,
    ServerPool,
    Session,
)

# A lock that is waited for longer is felt by requests.
BLOCKED_SECONDS = 0.2
# Share of max_connections from which new sessions begin to be refused.
NEARLY_ALL = 0.95
# Share of a replica's memory limit from which its end is near.
NEARLY_FULL = 0.8
# From this age on a transaction harms others: it keeps its locks, and dead rows of every table.
OPEN_SECONDS = 60.0
# Of fewer that are lent it can be chance that no look met one at work.
LEAK_LENT = 4
# Patroni looks at etcd each second.
ETCD_SECONDS = 8.0
_START_ETCD = f"docker compose start {' '.join(ETCD)}"
# Drivers keep 100 (asyncpg, psycopg) to 256 (pgjdbc) statements prepared.
MANY_STATEMENTS = 1000
_POOL_SIZES = {one.entry: one.server_pool_size for one in SERVICES}
_SERVICES = {one.service: one for one in SERVICES}
_MEMORY = {
    **dict.fromkeys(("postgres", *INSTANCES), "POSTGRES_MEMORY_MB"),
    "pgbouncer": "PGBOUNCER_MEMORY_MB",
    "gateway": "PGBOUNCER_MEMORY_MB",
    "api": "API_MEMORY_MB",
    "worker": "WORKER_MEMORY_MB",
}
# Two segments of the write-ahead log: with less the server ends, or is about to.
_FULL_BYTES = 32 << 20
# 128 + SIGKILL.
_EXIT_KILLED = 137
# What Compose reads is changed with the container.
_RESTART = "make apply RESTART=yes"
_TIER_OF = {
    "disk": "postgres",
    "disk full": "postgres",
    "primary": "postgres",
    "standbys": "postgres",
    **dict.fromkeys(("etcd", *ETCD, *INSTANCES), "postgres"),
    "locks": "postgres",
    "roles": "postgres",
    "paused": "pgbouncer",
    "server logins": "pgbouncer",
}
_NO_SLOTS = ("too many clients already", "remaining connection slots are reserved")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where it is tight, in one line for a reader, the setting (empty: none) and what to run.

    Each line of `command` can be pasted as it is.
    """

    where: str
    line: str
    setting: str = ""
    command: str = ""

    @property
    def tier(self) -> str:
        """Return the part of the path that `where` is: a service, or app; empty where unknown."""
        first = self.where.partition(" ")[0]
        if other := _TIER_OF.get(self.where) or _TIER_OF.get(first):
            return other
        return first if first in (*CONTAINERS, "app") else ""


def bottleneck(sample: Sample) -> Verdict:
    """Return the one thing to look at first."""
    judges: tuple[Callable[[Sample], Verdict | None], ...] = (
        _full_disk,
        _no_primary,
        _no_standby,
        _no_quorum,
        _down,
        _unreachable,
        _short_of_memory,
        _paused,
        _locks,
        _roles,
        _logins,
        _servers_taken,
        _app_pools,
        _busy_disk,
        _long_transaction,
        _lagging,
        _busy_server,
        _low_disk,
    )
    verdicts = (judge(sample) for judge in judges)
    return next((one for one in verdicts if one), Verdict("none", "none."))


def _full_disk(sample: Sample) -> Verdict | None:
    """Judge what ends the server: its container's state only shows it."""
    disk = sample.host.disk if sample.host else None
    if disk is None or disk.free >= _FULL_BYTES:
        return None
    line = f"the data volume is full: {disk.free >> 20} MB free of {disk.size >> 20} MB."
    return Verdict("disk full", line, "POSTGRES_DISK_MB", "make free-disk")


def _no_primary(sample: Sample) -> Verdict | None:
    if not sample.instances or patroni.primary(sample.instances):
        return None
    line = "no instance of PostgreSQL is the primary: writes are refused, standbys answer reads."
    if is_without_etcd(sample):
        return Verdict("etcd", f"etcd has no quorum, and {line}", command=_START_ETCD)
    line += " A standby takes over within about 30 s of a loss, where a synchronous one is left."
    return Verdict("primary", line, command="docker compose logs --tail 20 postgres-1 postgres-2")


def _no_standby(sample: Sample) -> Verdict | None:
    """Judge what holds every write up: none is acknowledged that a standby does not have."""
    leader = patroni.primary(sample.instances)
    if leader is None or any(one.follows for one in sample.instances):
        return None
    others = [one for one in sample.instances if one is not leader]
    line = f"no standby follows {leader.name}: no write is acknowledged until one does."
    starts = "\n".join(f"docker compose restart {one.name}" for one in others)
    return Verdict("standbys", line, command=starts)


def _no_quorum(sample: Sample) -> Verdict | None:
    leader = patroni.primary(sample.instances)
    if leader is None or not is_without_etcd(sample):
        return None
    line = (
        f"etcd has no quorum: {leader.name} stays the primary while every instance answers, and "
        "none could take its place."
    )
    return Verdict("etcd", line, command=_START_ETCD)


def is_without_etcd(sample: Sample) -> bool:
    """Return True if no instance reaches a majority of etcd."""
    if any(one.failsafe for one in sample.instances):
        return True
    seen = [one.etcd_seconds for one in sample.instances if one.etcd_seconds is not None]
    return bool(seen) and min(seen) > ETCD_SECONDS


def _lagging(sample: Sample) -> Verdict | None:
    """Judge a standby that cannot take the primary's place; the other one can."""
    for one in sample.instances:
        if not (one.error or one.is_primary or one.follows):
            line = f"{one.name} does not follow the primary: {one.state}."
            return Verdict(one.name, line, command=f"docker compose restart {one.name}")
    return None


def _low_disk(sample: Sample) -> Verdict | None:
    """Warn while there is time: what the log and one session's files may take is not free."""
    disk = sample.host.disk if sample.host else None
    if disk is None or disk.free >= disk.reserve:
        return None
    line = (
        f"the data volume is about to be full: {disk.free >> 20} MB free of {disk.size >> 20} MB, "
        f"while the write-ahead log and one session's temporary files may take "
        f"{disk.reserve >> 20} MB."
    )
    return Verdict("disk", line, "POSTGRES_DISK_MB", "make free-disk")


def _down(sample: Sample) -> Verdict | None:
    """Judge the containers that do not run, from the database upwards."""
    containers = sample.host.containers if sample.host else ()
    # Nothing of the path waits for a backup; status shows it all the same.
    down = [one for one in containers if one.state != "running" and one.service != "backup"]
    if not down:
        return None
    first = min(down, key=lambda one: CONTAINERS.index(one.service))
    more = f" (and {len(down) - 1} more)" if len(down) > 1 else ""
    line = f"container {first.name} {_state(first)}{more}."
    where = f"{first.service} {first.state}"
    if first.oom_killed and first.service in _MEMORY:
        return _raise(where, line, _MEMORY[first.service], "make up")
    if first.state == "paused":
        return Verdict(where, line, command=f"docker unpause {first.name}")
    command = f"docker logs --tail 20 {first.name}"
    if first.state != "restarting":
        command += f"\ndocker start {first.name}"
    return Verdict(where, line, command=command)


def _raise(where: str, line: str, setting: str, command: str = "make apply") -> Verdict:
    file, colon, name = setting.rpartition(":")
    place = f"infra/env/{file}" if colon else "stack.env"
    return Verdict(where, f"{line} Raise {name} in {place}, then:", setting, command)


def _state(container: Container) -> str:
    restarts = f"{container.restarts} restart(s)"
    if container.state == "paused":
        return f"is paused (started {container.since}, {restarts})"
    how = "killed" if container.exit_code == _EXIT_KILLED else "exit code"
    how = "out of memory" if container.oom_killed else how
    return f"is {container.state} since {container.since} ({how} {container.exit_code}, {restarts})"


def _unreachable(sample: Sample) -> Verdict | None:
    if not (found := sample.unreachable):
        return None
    if any(text in sample.server.error for text in _NO_SLOTS):
        line = f"PostgreSQL takes no more sessions: {sample.server.error}"
        return Verdict("postgres sessions", line, "POSTGRES_MAX_CONNECTIONS", "make psql")
    if is_login_refusal(sample.server.error):
        line = f"PostgreSQL refuses the operator, set outside: {sample.server.error}"
        return Verdict("roles", line, command="make apply")
    if absent := _absent(sample.host):
        line = f"no container of {', '.join(absent)} is there."
        return Verdict(f"{absent[0]} absent", line, command="make up")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    line = f"{found[0]}{more}: what does not answer comes first."
    return Verdict("unreachable", line, command="make logs" if sample.host else "make status")


def _absent(host: HostFacts | None) -> list[str]:
    """Return the tiers without a container, after `make down` for instance."""
    there = {one.service for one in host.containers} if host else set(TIERS)
    return [tier for tier in TIERS if tier not in there]


def _short_of_memory(sample: Sample) -> Verdict | None:
    """Judge the replicas: nothing bounds what their clients' prepared statements take."""
    containers = sample.host.containers if sample.host else ()
    near = [
        one
        for one in containers
        if one.service == "pgbouncer" and one.memory > NEARLY_FULL * (one.memory_limit or math.inf)
    ]
    if not near:
        return None
    worst = max(near, key=lambda one: one.memory / one.memory_limit)
    line = (
        f"PgBouncer {worst.name} holds {worst.memory >> 20} MB of the {worst.memory_limit >> 20} "
        "MB of its container; at the limit it is ended with all its connections."
    )
    client = next((one.preparing for one in sample.poolers if one.name == worst.name), None)
    if client is None or client.statements < MANY_STATEMENTS:
        return _raise("pgbouncer memory", line, _MEMORY["pgbouncer"], _RESTART)
    line += (
        f" Its client {client.address} ({client.user}, {client.application_name or 'no name'}) has "
        f"{client.statements} prepared statements. End that client, then have the memory back:"
    )
    end = f"docker exec {worst.name} psql --command 'KILL_CLIENT {client.id}'"
    setting = _MEMORY["pgbouncer"]
    return Verdict("pgbouncer memory", line, setting, f"{end}\nmake restart-pgbouncer")


def _paused(sample: Sample) -> Verdict | None:
    paused = [pooler.name for pooler in sample.poolers if pooler.paused]
    if not paused:
        return None
    line = (
        f"{', '.join(paused)} is paused: every query waits for RESUME. An operation that restarts "
        "PostgreSQL ends its pause by itself; where none is under way:"
    )
    command = "\n".join(f"docker exec {name} psql --command RESUME" for name in paused)
    return Verdict("paused", line, command=command)


def _locks(sample: Sample) -> Verdict | None:
    felt = [one for one in sample.server.blocked if one.seconds >= BLOCKED_SECONDS]
    if not felt:
        return None
    waiting = {one.pid for one in sample.server.blocked}
    roots = sorted({pid for one in felt for pid in one.blocked_by} - waiting)
    line = (
        f"PostgreSQL: {len(felt)} session(s) wait for a lock, up to "
        f"{max(one.seconds for one in felt):.1f} s, held by {_holder(roots, sample)}; end it, or "
        "make its transaction shorter. More connections would only wait too."
    )
    # A prepared transaction has no process: pg_blocking_pids() gives 0 for it.
    pids = [pid for pid in roots if pid]
    ends = [f"SELECT pg_terminate_backend({pid});" for pid in pids]
    return Verdict("locks", line, "API_LOCK_TIMEOUT_MS", "\n".join(["make psql", *ends]))


def _holder(roots: list[int], sample: Sample) -> str:
    """Name the sessions that block and are not blocked themselves."""
    known = {one.pid: one for one in sample.server.holders}
    texts = []
    for pid in roots:
        one = known.get(pid)
        texts.append(
            f"process {pid} ({one.user}, {one.state}, {one.seconds:.1f} s)"
            if one
            else f"process {pid}"
        )
    return ", ".join(texts) or "each other"


def _roles(sample: Sample) -> Verdict | None:
    """Judge roles that are not as compiled: what follows looks like a limit of the path."""
    found = sample.server.outside
    if not found:
        return None
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Verdict("roles", f"set outside: {found[0]}{more}.", command="make apply")


def _logins(sample: Sample) -> Verdict | None:
    """Clients that wait while the replica has no server connection at all."""
    for pooler, pool in _pools(sample):
        if pool.clients_waiting and not pool.servers_active + pool.servers_idle:
            line = (
                f"PgBouncer {pooler.name} has no server connection for {pool.database}: "
                f"{pool.clients_waiting} client(s) wait until it has logged in to PostgreSQL."
            )
            setting = "PGBOUNCER_SERVER_LOGIN_RETRY_SECONDS"
            return Verdict("server logins", line, setting, f"docker logs --tail 20 {pooler.name}")
    return None


def _servers_taken(sample: Sample) -> Verdict | None:
    full = [(pooler, pool) for pooler, pool in _pools(sample) if _is_full(pool)]
    if not full:
        return None
    short = {_SERVICES[one.service].entry for one in sample.app if _is_short(one)}
    full_entries = {pool.database for _, pool in full}
    if API.entry in short and API.entry not in full_entries:
        # The batch pool is another queue: requests do not wait in it.
        return None
    pooler, pool = max(
        full, key=lambda one: (one[1].database == API.entry, one[1].max_wait_seconds)
    )
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
    taken = sum(one.servers_active for _, one in _pools(sample) if one.database == pool.database)
    idle = [one for one in server.idle if one.user == pool.user]
    if 2 * len(idle) >= taken:
        return _left_idle(pool, idle, line)
    if verdict := _busy_disk(sample):
        return replace(verdict, line=line + verdict.line)
    if server.on_cpu >= server.processors:
        why = (
            f"PostgreSQL runs {server.on_cpu} queries on {server.processors} processor(s): "
            "the processors are the limit, more connections would not help."
        )
        return _raise("postgres cpu", line + why, "POSTGRES_CPUS", _RESTART)
    if server.connections >= NEARLY_ALL * server.max_connections:
        why = f"PostgreSQL has {server.connections} of {server.max_connections} sessions."
        return Verdict("postgres sessions", line + why, "POSTGRES_MAX_CONNECTIONS", "make psql")
    setting = _POOL_SIZES.get(pool.database, clients.key(pool.database, "POOL_SIZE"))
    return _raise("pgbouncer pool", f"{line}PostgreSQL has room for more.", setting)


def _left_idle(pool: ServerPool, idle: list[Session], line: str) -> Verdict:
    """Judge a pool whose clients hold transactions in which they do nothing."""
    line += (
        f"{len(idle)} of them belong to transactions in which the client does nothing, the longest "
        f"for {idle[0].seconds:.1f} s: find what holds them; more connections would be held too."
    )
    service = next((one for one in SERVICES if one.entry == pool.database), None)
    setting = (
        service.idle_in_transaction_timeout
        if service
        else clients.key(pool.database, "IDLE_IN_TRANSACTION_TIMEOUT_MS")
    )
    ends = [f"SELECT pg_terminate_backend({one.pid});" for one in idle]
    return Verdict("app transactions", line, setting, "\n".join(["make psql", *ends]))


def _busy_disk(sample: Sample) -> Verdict | None:
    server = sample.server
    if server.checkpointing and server.on_disk:
        line = (
            f"PostgreSQL: {server.on_disk} session(s) wait for the disk while a checkpoint writes "
            "as fast as it can: checkpoints come too often for what is written."
        )
        return _raise("postgres disk", line, "POSTGRES_MAX_WAL_MB")
    if server.on_disk > max(server.processors, server.on_cpu):
        line = (
            f"PostgreSQL: {server.on_disk} session(s) wait for the disk: more connections would "
            "only wait too; fewer writes help, or a faster disk."
        )
        return Verdict("postgres disk", line)
    return None


def _long_transaction(sample: Sample) -> Verdict | None:
    one = sample.server.oldest
    if one is None or one.seconds < OPEN_SECONDS:
        return None
    line = (
        f"PostgreSQL: process {one.pid} ({one.user}, {one.state}) has had a transaction open for "
        f"{one.seconds:.0f} s: it keeps its locks, and VACUUM from removing what it might see."
    )
    end = f"make psql\nSELECT pg_terminate_backend({one.pid});"
    return Verdict("postgres transaction", line, command=end)


def _app_pools(sample: Sample) -> Verdict | None:
    short = [one for one in sample.app if _is_short(one)]
    if not short:
        return None
    worst = max(short, key=lambda one: (one.service == "api", one.waiting))
    if sample.server.on_cpu > sample.server.processors:
        return _busy_server(sample)
    client = _SERVICES[worst.service]
    pools = [pool for _, pool in _pools(sample) if pool.database == client.entry]
    idle = sum(pool.servers_idle for pool in pools)
    used, lent = sum(pool.servers_active for pool in pools), sum(one.in_use for one in short)
    if pools and lent >= LEAK_LENT and 4 * used < lent:
        line = (
            f"{worst.name}: all {worst.in_use} connections of its pool are lent and "
            f"{worst.waiting} caller(s) wait, but {used} of them are at work: borrowers hold "
            "connections that they do not use. The log names who: connection held too long."
        )
        return Verdict("app leak", line, client.leak_threshold, "make logs")
    line = (
        f"{worst.name}: all {worst.in_use} connections of its pool are lent and "
        f"{worst.waiting} caller(s) wait, while PgBouncer has {idle} idle server connection(s) "
        f"of {client.entry}."
    )
    return _raise("app pool", line, client.pool_max_size)


def _is_short(process: AppProcess) -> bool:
    return process.waiting > 0 and process.in_use >= process.max_size > 0


def _busy_server(sample: Sample) -> Verdict | None:
    server = sample.server
    if server.on_cpu <= server.processors:
        return None
    line = f"PostgreSQL runs {server.on_cpu} queries on {server.processors} processor(s); "
    waiting = sum(one.waiting for one in sample.app)
    line += f"{waiting} caller(s) wait for it." if waiting else "nothing queues in front of it yet."
    return _raise("postgres cpu", line, "POSTGRES_CPUS", _RESTART)


def _pools(sample: Sample) -> Iterator[tuple[Pooler, ServerPool]]:
    """Yield the pools that do work; the one of the health checks has one connection."""
    for pooler in sample.poolers:
        for pool in pooler.pools:
            if pool.database != MONITOR_ENTRY:
                yield pooler, pool
