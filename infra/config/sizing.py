"""The connections that follow from the settings: pools, sessions and clients, each counted once.

The rules judge these numbers, plan shows them, and what they take is in resources.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from infra.config import clients, names
from infra.config.names import Client
from infra.config.settings import Values

# One server connection of the database entry risk_monitor in each replica.
MONITOR_POOL_SIZE = 1
# Above the monitor's own transaction_timeout.
MONITOR_QUERY_TIMEOUT_SECONDS = 6
# With three instances: those of pg_rewind and of a rotation's trials, at the primary.
REPLICATION_SESSIONS = 2
# Of each process of the api, to read from the standbys while there is no primary.
STANDBY_POOL_SIZE = 4


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a sum of the budget: what takes it, how much, and how that comes about."""

    name: str
    size: int
    how: str


def total(parts: Iterable[Part]) -> int:
    """Return the sum of parts."""
    return sum(part.size for part in parts)


@dataclass(frozen=True, slots=True)
class Pool:
    """One PgBouncer database entry and its user, per replica: connections to PostgreSQL."""

    entry: str
    user: str
    database: str
    size: int
    reserve: int
    minimum: int
    query_timeout_seconds: int
    mode: str = "transaction"
    query_wait_timeout_seconds: int = 0
    max_client_connections: int = 0
    port: int = names.PRIMARY_PORT

    @property
    def is_standby(self) -> bool:
        """Return True if it leads to the standbys."""
        return self.port == names.STANDBY_PORT

    @property
    def limit(self) -> int:
        """Server connections one replica may open for this entry."""
        return self.size + self.reserve


def pools(values: Values) -> tuple[Pool, ...]:
    """Return the entries of one replica; with standbys each client has one more, to them."""
    own = [_pool(values, client) for client in clients.every(values)]
    return (
        *own,
        *(_to_standbys(pool) for pool in own if is_replicated(values)),
        Pool(
            names.MONITOR_ENTRY,
            names.MONITOR,
            names.DATABASE,
            MONITOR_POOL_SIZE,
            0,
            MONITOR_POOL_SIZE,
            MONITOR_QUERY_TIMEOUT_SECONDS,
        ),
    )


def _pool(values: Values, client: Client) -> Pool:
    return Pool(
        client.entry,
        client.role,
        client.database,
        values.integer(client.server_pool_size),
        values.integer(client.server_reserve_size),
        values.integer(client.server_min_pool_size),
        values.integer(client.query_timeout),
        values.text(client.pool_mode) if client.pool_mode else "transaction",
        _given(values, client.query_wait_timeout),
        _given(values, client.max_client_connections),
    )


def _to_standbys(pool: Pool) -> Pool:
    """Return the same without reserve; no connection is kept open where nobody reads."""
    entry = pool.entry + names.STANDBY_SUFFIX
    return replace(pool, entry=entry, reserve=0, minimum=0, port=names.STANDBY_PORT)


def _given(values: Values, name: str) -> int:
    return values.integer(name) if name else 0


def instances(values: Values) -> tuple[str, ...]:
    """Return the hosts of the servers; the single one is `postgres` itself."""
    return names.INSTANCES if values.integer("POSTGRES_INSTANCES") > 1 else ("postgres",)


def suffixes(values: Values) -> tuple[str, ...]:
    """Return what the container of the backups adds to a server's usual paths, for each."""
    return ("", *(name.removeprefix("postgres") for name in instances(values)[1:]))


def is_replicated(values: Values) -> bool:
    """Return True if there are standbys."""
    return len(instances(values)) > 1


def owner_sessions(values: Values) -> dict[str, int]:
    """Return the direct sessions of each owner, by role."""
    found = {names.OWNER: values.integer("POSTGRES_OWNER_CONNECTIONS")}
    for name, client in zip(clients.given(values), clients.applications(values), strict=True):
        if client.owner != names.OWNER:
            own = values.integer(clients.key(name, "OWNER_CONNECTIONS"))
            found[client.owner] = found.get(client.owner, 0) + own
    return found


def per_replica(values: Values) -> int:
    """Return the server connections that one PgBouncer replica may open."""
    return sum(pool.limit for pool in pools(values))


def pooled(values: Values) -> int:
    """Return the server connections that all PgBouncer replicas may open."""
    return per_replica(values) * values.integer("PGBOUNCER_REPLICAS")


def direct(values: Values) -> int:
    """Return the sessions that do not come through PgBouncer."""
    settings = (
        "POSTGRES_OPERATOR_CONNECTIONS",
        "POSTGRES_MONITOR_CONNECTIONS",
        "POSTGRES_BACKUP_CONNECTIONS",
    )
    replication = REPLICATION_SESSIONS if is_replicated(values) else 0
    return sum(owner_sessions(values).values()) + sum(map(values.integer, settings)) + replication


def reserved(values: Values) -> int:
    """Return the sessions that PostgreSQL keeps back."""
    return values.integer("POSTGRES_SUPERUSER_RESERVED_CONNECTIONS") + values.integer(
        "POSTGRES_RESERVED_CONNECTIONS"
    )


def session_parts(values: Values) -> tuple[Part, ...]:
    """Return everything that max_connections must hold."""
    replicas = values.integer("PGBOUNCER_REPLICAS")
    return (
        *(
            Part(
                f"pool {pool.entry} ({pool.user})",
                pool.limit * replicas,
                f"{replicas} replicas x ({pool.size} + {pool.reserve} reserve)",
            )
            for pool in pools(values)
        ),
        Part("direct", direct(values), "owners, operator, monitor, backup"),
        Part("reserved", reserved(values), "superuser, operator and monitor"),
    )


def spare(values: Values) -> int:
    """Return the sessions of max_connections that nobody claims; negative when over."""
    return values.integer("POSTGRES_MAX_CONNECTIONS") - total(session_parts(values))


def app_pools(values: Values) -> int:
    """Return the client connections of all app processes together."""
    workers = values.integer("WORKER_REPLICAS") * values.integer("WORKER_POOL_MAX_SIZE")
    return api_pools(values) + workers


def api_pools(values: Values) -> int:
    """Return the client connections of all processes of the api together."""
    processes = values.integer("API_REPLICAS") * values.integer("API_PROCESSES")
    return processes * api_pool(values)


def api_pool(values: Values) -> int:
    """Return the client connections of one process of the api."""
    standby = STANDBY_POOL_SIZE if is_replicated(values) else 0
    return values.integer("API_POOL_MAX_SIZE") + standby


def client_parts(values: Values) -> tuple[Part, ...]:
    """Return what one replica must accept in the worst case: everybody on this one.

    While the api is restarted, one process after the other, the old and the new have a pool each;
    of several containers one is there beside its successor.
    """
    processes, api = values.integer("API_PROCESSES"), api_pool(values)
    containers = values.integer("API_REPLICAS")
    successors = processes if containers > 1 else 1
    size = values.integer("WORKER_POOL_MAX_SIZE")
    replicas = values.integer("WORKER_REPLICAS")
    headroom = values.integer("PGBOUNCER_ADMIN_HEADROOM_CONNECTIONS")
    return (
        Part("api", api_pools(values), f"{containers * processes} processes x {api}"),
        Part("api's successor (restart)", successors * api, f"{successors} x API_POOL_MAX_SIZE"),
        Part("worker", replicas * size, f"{replicas} replicas x {size}"),
        *(
            # Of its user, whichever of its entries they come by.
            Part(pool.user, pool.max_client_connections, "MAX_CLIENT_CONNECTIONS")
            for pool in pools(values)
            if pool.max_client_connections and not pool.is_standby
        ),
        Part("operators and checks", headroom, "headroom"),
    )


def client_demand(values: Values) -> int:
    """Return the client connections of one replica in the worst case."""
    return total(client_parts(values))


def role_limits(values: Values) -> dict[str, int]:
    """Return the connection limit of every login role.

    A pooled role gets what PgBouncer may open for it plus the spare sessions: after a cut
    network, old sessions live on beside their replacements until the server notices.
    """
    replicas = values.integer("PGBOUNCER_REPLICAS")
    room = max(spare(values), 0)
    limits: dict[str, int] = {}
    # Both of a client's entries lead to the same server when there is no standby.
    for pool in pools(values):
        limits[pool.user] = limits.get(pool.user, room) + pool.limit * replicas
    limits[names.MONITOR] += values.integer("POSTGRES_MONITOR_CONNECTIONS") - room
    limits[names.OPERATOR] = values.integer("POSTGRES_OPERATOR_CONNECTIONS")
    if is_replicated(values):
        limits[names.REPLICATION] = REPLICATION_SESSIONS
    return limits | owner_sessions(values)
