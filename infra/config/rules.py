"""The rules: what must hold between settings before anything starts.

Each rule is one function that yields a message for every breach; a rule whose settings are
themselves at fault is left out, so that one mistake is reported once. Those about times are in
times.py.
"""

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from decimal import ROUND_CEILING
from itertools import combinations
from typing import Final

from infra.config import backups, clients, measured, observability, resources, sizing
from infra.config.faults import Fault
from infra.config.names import SERVICES
from infra.config.settings import UnavailableError, Values
from infra.config.times import TIME_RULES, Rule, at_most, shown

# Patroni puts 100 in the place of less.
PATRONI_CONNECTIONS_MIN = 25
STANDBY_SENDERS = 4
# A pool serves its threads and the health check, and has one to spare.
_WORKER_EXTRA_BORROWERS = 2
# Of the operator at PostgreSQL: one to look and one to compare; one to change and one to look.
_CONSOLE_SESSIONS = 2
_COMMAND_SESSIONS = 2


def server_connections(values: Values) -> Iterator[str]:
    """Rule 1: everything that may connect fits into max_connections."""
    demand = sizing.total(sizing.session_parts(values))
    if sizing.spare(values) < 0:
        yield (
            f"PGBOUNCER_REPLICAS={values['PGBOUNCER_REPLICAS']} x "
            f"{sizing.per_replica(values)} server connections "
            f"({_pool_sizes(values)}) + {sizing.direct(values)} direct + "
            f"{sizing.reserved(values)} reserved = {demand} exceeds "
            f"{shown(values, 'POSTGRES_MAX_CONNECTIONS')}; lower the pools by "
            f"{-(sizing.spare(values) // values.integer('PGBOUNCER_REPLICAS'))} in each replica "
            f"or raise it"
        )


def instances(values: Values) -> Iterator[str]:
    """Check that a majority of the instances can outvote the rest, and what Patroni takes."""
    if values.integer("POSTGRES_INSTANCES") == 2:
        yield (
            "POSTGRES_INSTANCES=2 has no majority when one of them is lost, so that nobody could "
            "decide which one is the primary; write 1 or 3"
        )
        return
    if not sizing.is_replicated(values):
        return
    if values.text("PGBOUNCER_SERVER_HOP") != "tls":
        yield (
            f"{shown(values, 'PGBOUNCER_SERVER_HOP')} leads to one server only, and "
            f"{shown(values, 'POSTGRES_INSTANCES')}; remove the line or write tls"
        )
    senders = "POSTGRES_BACKUP_CONNECTIONS"
    if values.integer(senders) < STANDBY_SENDERS:
        yield (
            f"{shown(values, senders)} is below {STANDBY_SENDERS}, what two standbys take while "
            "they are copied; remove the line or raise it"
        )
    if values.integer("POSTGRES_MAX_CONNECTIONS") < PATRONI_CONNECTIONS_MIN:
        yield (
            f"{shown(values, 'POSTGRES_MAX_CONNECTIONS')} is below {PATRONI_CONNECTIONS_MIN}, the "
            f"least that Patroni takes, and {shown(values, 'POSTGRES_INSTANCES')}"
        )


def _pool_sizes(values: Values) -> str:
    sizes = [
        name
        for client in clients.every(values)
        for name in client.sizes[:2]
        if values.integer(name)
    ]
    return f"{shown(values, *sizes)}, monitor={sizing.MONITOR_POOL_SIZE}"


def client_connections(values: Values) -> Iterator[str]:
    """Rule 2: one replica accepts all app pools and still has room for operators."""
    demand = sizing.client_demand(values)
    if demand > values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS"):
        names = (
            *(["API_REPLICAS"] if values.integer("API_REPLICAS") > 1 else []),
            *("API_PROCESSES", "API_POOL_MAX_SIZE"),
            *("WORKER_REPLICAS", "WORKER_POOL_MAX_SIZE"),
            *(client.max_client_connections for client in clients.applications(values)),
        )
        yield (
            f"{shown(values, *names, 'PGBOUNCER_ADMIN_HEADROOM_CONNECTIONS')} need {demand} client "
            f"connections when all meet on one replica while the api is restarted (one pool more), "
            f"which exceeds "
            f"{shown(values, 'PGBOUNCER_MAX_CLIENT_CONNECTIONS')}; lower the pools or raise it"
        )


def open_files(values: Values) -> Iterator[str]:
    """Rule 2: client and server connections of a replica fit into its open-file limit."""
    demand = resources.file_demand(values)
    if demand > values.integer("PGBOUNCER_OPEN_FILES"):
        yield (
            f"{shown(values, 'PGBOUNCER_MAX_CLIENT_CONNECTIONS')} + "
            f"{sizing.per_replica(values)} server connections + "
            f"{resources.OPEN_FILES_SLACK} others = {demand} exceeds "
            f"{shown(values, 'PGBOUNCER_OPEN_FILES')}; a replica would refuse clients"
        )


def pgbouncer_memory(values: Values) -> Iterator[str]:
    """Check that a replica full of TLS clients, and one long message, fit into its memory."""
    demand = resources.pgbouncer_memory_kb(values)
    if demand > values.integer("PGBOUNCER_MEMORY_MB") * 1024:
        yield (
            f"{shown(values, 'PGBOUNCER_MAX_CLIENT_CONNECTIONS')} TLS clients and "
            f"{resources.PGBOUNCER_PACKET_COPIES} x "
            f"{shown(values, 'PGBOUNCER_MAX_PACKET_KB')} need "
            f"about {-(-demand // 1024)} MB, which exceeds "
            f"{shown(values, 'PGBOUNCER_MEMORY_MB')}; a full replica would be killed"
        )


def longest_packet(values: Values) -> Iterator[str]:
    """Check that PgBouncer lets the results of a batch pass."""
    demand = resources.app_packet_kb(values)
    if demand > values.integer("PGBOUNCER_MAX_PACKET_KB"):
        yield (
            f"{shown(values, 'WORKER_BATCH_TASKS')} x {resources.TASK_PACKET_KB} kB of results = "
            f"{demand} kB exceeds {shown(values, 'PGBOUNCER_MAX_PACKET_KB')}; PgBouncer would end "
            "the connection"
        )


def pool_sizes(values: Values) -> Iterator[str]:
    """Rule 3: no pool keeps more open than it may have; no thread waits for a thread."""
    pairs = [(service.pool_min_size, service.pool_max_size) for service in SERVICES]
    every = clients.every(values)
    pairs += [(client.server_min_pool_size, client.server_pool_size) for client in every]
    for low, high in pairs:
        yield from at_most(values, low, high, "a minimum cannot exceed its maximum")


def application_names(values: Values) -> Iterator[str]:
    """Check that no application has the role that owns a database."""
    owners = {database.owner: database.name for database in clients.databases(values)}
    for name in clients.given(values):
        if name in owners:
            yield (
                f"{clients.file(name)}: the role {name} is the owner of the database "
                f"{owners[name]}; choose another name"
            )


def session_pools(values: Values) -> Iterator[str]:
    """Check that in session mode every connection of an application has a server connection."""
    for client in clients.applications(values):
        size, reserve, _ = client.sizes
        room = values.integer(size) + values.integer(reserve)
        wanted = values.integer(client.max_client_connections)
        if values.text(client.pool_mode) == clients.SESSION and wanted > room:
            yield (
                f"{shown(values, client.max_client_connections)} exceeds {shown(values, size)} + "
                f"{shown(values, reserve)} with {shown(values, client.pool_mode)}; each connection "
                "holds a server connection until it ends, and all may meet on one replica"
            )


def worker_threads(values: Values) -> Iterator[str]:
    """Rule 3: every worker thread can hold a connection."""
    reason = "a thread would wait for another thread"
    yield from at_most(values, "WORKER_THREADS", "WORKER_POOL_MAX_SIZE", reason)


def api_processes(values: Values) -> Iterator[str]:
    """Check that every process of the api has a processor, threads and memory."""
    setting = "API_PROCESSES"
    cpus = values.number("API_CPUS").to_integral_value(rounding=ROUND_CEILING)
    if values.integer(setting) > cpus:
        yield (
            f"{shown(values, setting)} exceeds {shown(values, 'API_CPUS')} rounded up; "
            "a process without a processor of its own only takes connections and memory"
        )
    threads = resources.api_threads(values)
    if threads > resources.API_THREADS_LIMIT:
        yield (
            f"{shown(values, setting, 'API_THREADS', 'APP_POOL_CONNECTORS')} need {threads} "
            f"threads while the api is restarted (one process more, {resources.API_OTHER_THREADS} "
            f"other threads in each), and the container may have {resources.API_THREADS_LIMIT}; "
            "lower one of them"
        )
    demand = resources.api_memory_mb(values)
    if demand > values.integer("API_MEMORY_MB"):
        names = (setting, "API_THREADS", "API_EVENT_STREAMS_MAX")
        yield (
            f"{shown(values, *names)} need about {demand} MB while the api is restarted (one "
            f"process more), which exceeds {shown(values, 'API_MEMORY_MB')}; lower one of them or "
            "raise the memory"
        )


def memory(values: Values) -> Iterator[str]:
    """Rule 5: PostgreSQL's worst case fits into its container."""
    demand = resources.memory_demand_kb(values)
    if demand <= resources.memory_kb(values):
        return
    names = ("POSTGRES_MAX_CONNECTIONS", "POSTGRES_AUTOVACUUM_WORKERS")
    yield (
        f"{shown(values, *names)}: shared_buffers {resources.shared_buffers_kb(values)} kB + "
        f"sessions x (work_mem {resources.work_mem_kb(values)} kB x {resources.WORK_MEM_FACTOR} + "
        f"{resources.SESSION_OVERHEAD_KB} kB) + autovacuum x maintenance_work_mem "
        f"{resources.maintenance_work_mem_kb(values)} kB = {-(-demand // 1024)} MB exceeds "
        f"{shown(values, 'POSTGRES_MEMORY_MB')}; lower POSTGRES_MAX_CONNECTIONS, "
        "POSTGRES_SHARED_BUFFERS_PERCENT, POSTGRES_WORK_MEM_KB or "
        "POSTGRES_MAINTENANCE_WORK_MEM_MB, or raise the memory"
    )


def smallest_work_mem(values: Values) -> Iterator[str]:
    """Check that PostgreSQL accepts a chosen work_mem: it keeps the old value of one it refuses."""
    if 0 < values.integer("POSTGRES_WORK_MEM_KB") < resources.WORK_MEM_MIN_KB:
        yield (
            f"{shown(values, 'POSTGRES_WORK_MEM_KB')} is below {resources.WORK_MEM_MIN_KB} kB, the "
            "least that PostgreSQL accepts; 0 derives it"
        )


def disk(values: Values) -> Iterator[str]:
    """Check that the write-ahead log fits into its share of the disk."""
    share = resources.disk_share_mb(values)
    if resources.wal_demand_mb(values) > share:
        yield (
            f"{shown(values, 'POSTGRES_MAX_WAL_MB')} x {resources.wal_factor(values)} exceeds "
            f"{share} MB, a quarter of {shown(values, 'POSTGRES_DISK_MB')}; the log would take the "
            "space of the data; lower it or give the volume more disk"
        )


def prepared_statements(values: Values) -> Iterator[str]:
    """Rule 6: PgBouncer keeps every statement that a client has prepared."""
    reason = "PgBouncer would prepare the same statements over and over"
    yield from at_most(values, "APP_PREPARED_MAX", "PGBOUNCER_MAX_PREPARED_STATEMENTS", reason)


def oversized_pools(values: Values) -> Iterator[str]:
    """Warn of more server connections than 2 x cores in one pool that no measurement backs."""
    enough = 2 * values.number("POSTGRES_CPUS")
    replicas = values.integer("PGBOUNCER_REPLICAS")
    for client in clients.every(values):
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
            "(one for the health check, one to spare) is never used"
        )


def dropped_cancels(values: Values) -> Iterator[str]:
    """Warn of a reserve in which PgBouncer has no room for cancel requests; see docs/tuning.md."""
    for client in clients.every(values):
        size, reserve, _ = client.sizes
        if values.integer(reserve) and values.integer(reserve) >= values.integer(size):
            yield (
                f"{shown(values, reserve)} is not below {shown(values, size)}: while all of them "
                "are open PgBouncer drops the requests by which clients cancel a statement"
            )


def scarce_work_mem(values: Values) -> Iterator[str]:
    """Warn of a work_mem so small that ordinary sorts go to disk."""
    found = resources.work_mem_kb(values)
    if found < resources.WORK_MEM_USEFUL_KB:
        names = ("POSTGRES_MEMORY_MB", "POSTGRES_MAX_CONNECTIONS")
        yield (
            f"{shown(values, *names)} leave work_mem {found} kB, below "
            f"{resources.WORK_MEM_USEFUL_KB} kB: sorts go to disk; raise the memory"
        )


def shared_databases(values: Values) -> Iterator[str]:
    """Say which applications share a database."""
    for database in clients.databases(values):
        if len(database.users) > 1 and set(database.users) & set(clients.given(values)):
            grants = (
                f"; grant the rights on its tables as {database.owner}" if database.is_own else ""
            )
            yield f"the database {database.name} is that of {', '.join(database.users)}{grants}"


def published_ports(values: Values) -> tuple[str, ...]:
    """Return the settings of the ports that services have on the host."""
    return (
        "API_PORT",
        *(["PGBOUNCER_PORT"] if values.integer("PGBOUNCER_PORT") else []),
        *(observability.PORTS if observability.is_on(values) else ()),
    )


def ports(values: Values) -> Iterator[str]:
    """Check that no two services are published on the same port of the host."""
    for one, other in combinations(published_ports(values), 2):
        if values.integer(one) == values.integer(other):
            yield (
                f"{shown(values, one)} and {shown(values, other)} are the same port; "
                "choose another for one of them"
            )


def observers(values: Values) -> Iterator[str]:
    """Check that what watches the path can log in, and leaves operators what they need."""
    if not observability.is_on(values):
        return
    profile = shown(values, "COMPOSE_PROFILES")
    if values.integer("POSTGRES_MONITOR_CONNECTIONS") < observability.MONITOR_SESSIONS:
        yield (
            f"{shown(values, 'POSTGRES_MONITOR_CONNECTIONS')} must be at least "
            f"{observability.MONITOR_SESSIONS} with {profile}: the health check and two of the "
            "exporter's"
        )
    ignored = values.text("PGBOUNCER_IGNORE_STARTUP_PARAMETERS")
    if observability.STARTUP_PARAMETER not in ignored.split(","):
        yield (
            f"{shown(values, 'PGBOUNCER_IGNORE_STARTUP_PARAMETERS')} must have "
            f"{observability.STARTUP_PARAMETER} with {profile}, or PgBouncer refuses its exporter"
        )
    if values.integer("POSTGRES_OPERATOR_CONNECTIONS") < _CONSOLE_SESSIONS + _COMMAND_SESSIONS:
        yield (
            f"{shown(values, 'POSTGRES_OPERATOR_CONNECTIONS')} must be at least "
            f"{_CONSOLE_SESSIONS + _COMMAND_SESSIONS} with {profile}: the console has "
            f"{_CONSOLE_SESSIONS} of them, a command {_COMMAND_SESSIONS}"
        )


def open_address(values: Values) -> Iterator[str]:
    """Warn of an api that others than this host reach."""
    if not ipaddress.ip_address(values.text("API_BIND_ADDRESS")).is_loopback:
        yield (
            f"{shown(values, 'API_BIND_ADDRESS')} is not a loopback address: whoever reaches it "
            "can use the api, which has no authentication and no TLS"
        )


def logged_values(values: Values) -> Iterator[str]:
    """Warn while texts of statements are logged."""
    texts = (
        ("POSTGRES_SLOW_STATEMENT_MS", -1, "slow statements with their plan"),
        ("PGBOUNCER_LOG_VERBOSITY", 0, "the text of prepared statements"),
    )
    for name, off, what in texts:
        if values.integer(name) != off:
            yield (
                f"{shown(values, name)} logs {what}, and with it values that are written in "
                f"statements; set it to {off} when you have seen enough"
            )


RULES: Final[tuple[Rule, ...]] = (
    server_connections,
    instances,
    client_connections,
    open_files,
    pgbouncer_memory,
    longest_packet,
    pool_sizes,
    application_names,
    session_pools,
    worker_threads,
    api_processes,
    ports,
    observers,
    *TIME_RULES,
    memory,
    smallest_work_mem,
    disk,
    backups.queue,
    backups.repository,
    prepared_statements,
)
WARNINGS: Final[tuple[Rule, ...]] = (
    oversized_pools,
    cold_pools,
    idle_capacity,
    dropped_cancels,
    scarce_work_mem,
    shared_databases,
    open_address,
    logged_values,
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
