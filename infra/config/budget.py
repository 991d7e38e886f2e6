"""The budget: what must hold between settings before anything starts.

Each rule is one function that yields a message for every breach; a rule whose settings are
themselves at fault is left out, so that one mistake is reported once.
"""

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from typing import Final

from infra.config import connections, derive, measured
from infra.config.faults import Fault
from infra.config.names import CLIENTS
from infra.config.settings import UnavailableError, Values
from infra.config.timing import TIME_RULES
from infra.config.wording import Rule, at_most, shown

# Measured: 5,000 TLS clients took 187 MiB in one process.
PGBOUNCER_BASE_KB = 16 * 1024
PGBOUNCER_CLIENT_KB = 40
# A pool serves its threads, the heartbeat and the health check; more cannot be used.
_WORKER_EXTRA_BORROWERS = 2


def server_connections(values: Values) -> Iterator[str]:
    """Rule 1: everything that may connect fits into max_connections."""
    demand = connections.server_demand(values)
    if connections.spare(values) < 0:
        yield (
            f"PGBOUNCER_REPLICAS={values['PGBOUNCER_REPLICAS']} x "
            f"{connections.per_replica(values)} server connections "
            f"({_pool_sizes(values)}) + {connections.direct(values)} direct + "
            f"{connections.reserved(values)} reserved = {demand} exceeds "
            f"{shown(values, 'POSTGRES_MAX_CONNECTIONS')}; lower the pools or raise it"
        )


def _pool_sizes(values: Values) -> str:
    sizes = [
        name for client in CLIENTS for name in (client.server_pool_size, client.server_reserve_size)
    ]
    return f"{shown(values, *sizes)}, monitor={connections.MONITOR_POOL_SIZE}"


def client_connections(values: Values) -> Iterator[str]:
    """Rule 2: one replica accepts all app pools and still has room for operators."""
    demand = connections.client_demand(values)
    if demand > values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS"):
        names = ("API_POOL_MAX_SIZE", "WORKER_REPLICAS", "WORKER_POOL_MAX_SIZE")
        yield (
            f"{shown(values, *names, 'PGBOUNCER_ADMIN_HEADROOM_CONNECTIONS')} need {demand} client "
            f"connections when all meet on one replica while the api is restarted (its pool counts "
            f"twice), which exceeds "
            f"{shown(values, 'PGBOUNCER_MAX_CLIENT_CONNECTIONS')}; lower the pools or raise it"
        )


def open_files(values: Values) -> Iterator[str]:
    """Rule 2: client and server connections of a replica fit into its open-file limit."""
    demand = connections.file_demand(values)
    if demand > values.integer("PGBOUNCER_OPEN_FILES"):
        yield (
            f"{shown(values, 'PGBOUNCER_MAX_CLIENT_CONNECTIONS')} + "
            f"{connections.per_replica(values)} server connections + "
            f"{connections.OPEN_FILES_SLACK} others = {demand} exceeds "
            f"{shown(values, 'PGBOUNCER_OPEN_FILES')}; a replica would refuse clients"
        )


def pgbouncer_memory(values: Values) -> Iterator[str]:
    """Check that a replica full of TLS clients fits into its memory limit."""
    clients = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    demand = PGBOUNCER_BASE_KB + clients * PGBOUNCER_CLIENT_KB
    if demand > values.integer("PGBOUNCER_MEMORY_MB") * 1024:
        yield (
            f"{shown(values, 'PGBOUNCER_MAX_CLIENT_CONNECTIONS')} TLS clients need about "
            f"{-(-demand // 1024)} MB, which exceeds {shown(values, 'PGBOUNCER_MEMORY_MB')}; "
            "a full replica would be killed"
        )


def pool_sizes(values: Values) -> Iterator[str]:
    """Rule 3: no pool keeps more open than it may have; no thread waits for a thread."""
    pairs = [(client.pool_min_size, client.pool_max_size) for client in CLIENTS]
    pairs += [(client.server_min_pool_size, client.server_pool_size) for client in CLIENTS]
    for low, high in pairs:
        yield from at_most(values, low, high, "a minimum cannot exceed its maximum")


def worker_threads(values: Values) -> Iterator[str]:
    """Rule 3: every worker thread can hold a connection."""
    reason = "a thread would wait for another thread"
    yield from at_most(values, "WORKER_THREADS", "WORKER_POOL_MAX_SIZE", reason)


def memory(values: Values) -> Iterator[str]:
    """Rule 5: PostgreSQL's worst case fits into its container."""
    demand = derive.memory_demand_kb(values)
    if demand <= derive.memory_kb(values):
        return
    names = ("POSTGRES_MAX_CONNECTIONS", "POSTGRES_AUTOVACUUM_WORKERS")
    yield (
        f"{shown(values, *names)}: shared_buffers {derive.shared_buffers_kb(values)} kB + "
        f"sessions x (work_mem {derive.work_mem_kb(values)} kB x {derive.WORK_MEM_FACTOR} + "
        f"{derive.SESSION_OVERHEAD_KB} kB) + autovacuum x maintenance_work_mem "
        f"{derive.maintenance_work_mem_kb(values)} kB = {-(-demand // 1024)} MB exceeds "
        f"{shown(values, 'POSTGRES_MEMORY_MB')}; lower POSTGRES_MAX_CONNECTIONS, "
        "POSTGRES_SHARED_BUFFERS_PERCENT, POSTGRES_WORK_MEM_KB or "
        "POSTGRES_MAINTENANCE_WORK_MEM_MB, or raise the memory"
    )


def smallest_work_mem(values: Values) -> Iterator[str]:
    """Check that PostgreSQL accepts a chosen work_mem: it keeps the old value of one it refuses."""
    if 0 < values.integer("POSTGRES_WORK_MEM_KB") < derive.WORK_MEM_MIN_KB:
        yield (
            f"{shown(values, 'POSTGRES_WORK_MEM_KB')} is below {derive.WORK_MEM_MIN_KB} kB, the "
            "least that PostgreSQL accepts; 0 derives it"
        )


def disk(values: Values) -> Iterator[str]:
    """Check that the write-ahead log fits into its share of the disk."""
    share = values.integer("POSTGRES_DISK_MB") // derive.DISK_SHARE
    if derive.wal_demand_mb(values) > share:
        yield (
            f"{shown(values, 'POSTGRES_MAX_WAL_MB')} x {derive.WAL_FACTOR} exceeds {share} MB, a "
            f"quarter of {shown(values, 'POSTGRES_DISK_MB')}; the log would take the space of the "
            "data; lower it or give the volume more disk"
        )


def prepared_statements(values: Values) -> Iterator[str]:
    """Rule 6: PgBouncer keeps every statement that a client has prepared."""
    reason = "PgBouncer would prepare the same statements over and over"
    yield from at_most(values, "APP_PREPARED_MAX", "PGBOUNCER_MAX_PREPARED_STATEMENTS", reason)


def oversized_pools(values: Values) -> Iterator[str]:
    """Warn of more server connections than 2 x cores in one pool that no measurement backs."""
    enough = 2 * values.number("POSTGRES_CPUS")
    replicas = values.integer("PGBOUNCER_REPLICAS")
    for client in CLIENTS:
        name = client.server_pool_size
        if values.integer(name) * replicas > enough and (why := _unmeasured(values, name)):
            yield (
                f"{shown(values, name)} x {replicas} replicas is more than 2 x "
                f"{shown(values, 'POSTGRES_CPUS')} and {why}; measure it with make tune"
            )


def _unmeasured(values: Values, name: str) -> str:
    mark = values.marks.get(name)
    if mark is None:
        return "no measurement is on record above it"
    today = datetime.datetime.now(datetime.UTC).date()
    return measured.why_void(mark, str(values[name]), measured.this_machine(), today)


def cold_pools(values: Values) -> Iterator[str]:
    """Warn of pools that start empty: logins to PostgreSQL go one at a time."""
    name = "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE"
    if values.integer(name) == 0:
        yield f"{shown(values, name)}: the first requests after a quiet time wait for logins"


def idle_capacity(values: Values) -> Iterator[str]:
    """Warn of pools larger than the threads that can use them."""
    if values.integer("API_POOL_MAX_SIZE") > values.integer("API_THREADS"):
        yield f"{shown(values, 'API_POOL_MAX_SIZE', 'API_THREADS')}: the rest is never used"
    usable = values.integer("WORKER_THREADS") + _WORKER_EXTRA_BORROWERS
    if values.integer("WORKER_POOL_MAX_SIZE") > usable:
        names = ("WORKER_POOL_MAX_SIZE", "WORKER_THREADS")
        yield (
            f"{shown(values, *names)}: more than threads + {_WORKER_EXTRA_BORROWERS} "
            "(heartbeat, health check) is never used"
        )


def scarce_work_mem(values: Values) -> Iterator[str]:
    """Warn of a work_mem so small that ordinary sorts go to disk."""
    found = derive.work_mem_kb(values)
    if found < derive.WORK_MEM_USEFUL_KB:
        names = ("POSTGRES_MEMORY_MB", "POSTGRES_MAX_CONNECTIONS")
        yield (
            f"{shown(values, *names)} leave work_mem {found} kB, below "
            f"{derive.WORK_MEM_USEFUL_KB} kB: sorts go to disk; raise the memory"
        )


def open_address(values: Values) -> Iterator[str]:
    """Warn of an api that others than this host reach."""
    if not ipaddress.ip_address(values.text("API_BIND_ADDRESS")).is_loopback:
        yield (
            f"{shown(values, 'API_BIND_ADDRESS')} is not a loopback address: whoever reaches it "
            "can use the api, which has no authentication and no TLS"
        )


RULES: Final[tuple[Rule, ...]] = (
    server_connections,
    client_connections,
    open_files,
    pgbouncer_memory,
    pool_sizes,
    worker_threads,
    *TIME_RULES,
    memory,
    smallest_work_mem,
    disk,
    prepared_statements,
)
WARNINGS: Final[tuple[Rule, ...]] = (
    oversized_pools,
    cold_pools,
    idle_capacity,
    scarce_work_mem,
    open_address,
)


def faults(values: Values, *, file: str) -> tuple[Fault, ...]:
    """Return every breach of a rule; the budget holds when there is none."""
    return tuple(Fault(file, message) for rule in RULES for message in _judge(rule, values))


def warnings(values: Values, *, file: str) -> tuple[Fault, ...]:
    """Return what an operator should know but may want."""
    return tuple(Fault(file, message) for rule in WARNINGS for message in _judge(rule, values))


def _judge(rule: Callable[[Values], Iterator[str]], values: Values) -> tuple[str, ...]:
    try:
        return tuple(rule(values))
    except UnavailableError:
        return ()
