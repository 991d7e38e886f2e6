"""The connection arithmetic of the budget, in one place for rules, roles and `plan`."""

from dataclasses import dataclass

from infra.config import names
from infra.config.names import Client
from infra.config.settings import Values

# One server connection of the database entry risk_monitor in each replica.
MONITOR_POOL_SIZE = 1
# Listening sockets, log, epoll, DNS and the administrator's own descriptors.
OPEN_FILES_SLACK = 64


@dataclass(frozen=True, slots=True)
class Pool:
    """One PgBouncer database entry, per replica: connections to PostgreSQL."""

    entry: str
    user: str
    size: int
    reserve: int
    minimum: int

    @property
    def limit(self) -> int:
        """Server connections one replica may open for this entry."""
        return self.size + self.reserve


def pools(values: Values) -> tuple[Pool, ...]:
    """Return the entries of one replica."""
    return (
        *(_pool(values, client) for client in names.CLIENTS),
        Pool(names.MONITOR_ENTRY, names.MONITOR, MONITOR_POOL_SIZE, 0, MONITOR_POOL_SIZE),
    )


def _pool(values: Values, client: Client) -> Pool:
    return Pool(
        client.entry,
        client.role,
        values.integer(client.server_pool_size),
        values.integer(client.server_reserve_size),
        values.integer(client.server_min_pool_size),
    )


def per_replica(values: Values) -> int:
    """Return the server connections that one PgBouncer replica may open."""
    return sum(pool.limit for pool in pools(values))


def pooled(values: Values) -> int:
    """Return the server connections that all PgBouncer replicas may open."""
    return per_replica(values) * values.integer("PGBOUNCER_REPLICAS")


def direct(values: Values) -> int:
    """Return the sessions that do not come through PgBouncer."""
    settings = (
        "POSTGRES_OWNER_CONNECTIONS",
        "POSTGRES_OPERATOR_CONNECTIONS",
        "POSTGRES_MONITOR_CONNECTIONS",
        "POSTGRES_BACKUP_CONNECTIONS",
    )
    return sum(map(values.integer, settings))


def reserved(values: Values) -> int:
    """Return the sessions that PostgreSQL keeps back."""
    return values.integer("POSTGRES_SUPERUSER_RESERVED_CONNECTIONS") + values.integer(
        "POSTGRES_RESERVED_CONNECTIONS"
    )


def server_demand(values: Values) -> int:
    """Return everything that max_connections must hold."""
    return pooled(values) + direct(values) + reserved(values)


def spare(values: Values) -> int:
    """Return the sessions of max_connections that nobody claims; negative when over."""
    return values.integer("POSTGRES_MAX_CONNECTIONS") - server_demand(values)


def app_pools(values: Values) -> int:
    """Return the client connections of all app processes together."""
    workers = values.integer("WORKER_REPLICAS") * values.integer("WORKER_POOL_MAX_SIZE")
    return values.integer("API_POOL_MAX_SIZE") + workers


def client_demand(values: Values) -> int:
    """Return what one replica must accept in the worst case: everybody on this one.

    While the api is restarted, the old process and the new one have a pool each.
    """
    successor = values.integer("API_POOL_MAX_SIZE")
    return app_pools(values) + successor + values.integer("PGBOUNCER_ADMIN_HEADROOM_CONNECTIONS")


def file_demand(values: Values) -> int:
    """Return the open files of one replica at its limits."""
    clients = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    return clients + per_replica(values) + OPEN_FILES_SLACK


def role_limits(values: Values) -> dict[str, int]:
    """Return the connection limit of every login role.

    A pooled role gets what PgBouncer may open for it plus the spare sessions: after a cut
    network, old sessions live on beside their replacements until the server notices.
    """
    replicas = values.integer("PGBOUNCER_REPLICAS")
    room = max(spare(values), 0)
    limits = {pool.user: pool.limit * replicas + room for pool in pools(values)}
    limits[names.MONITOR] += values.integer("POSTGRES_MONITOR_CONNECTIONS") - room
    limits[names.OPERATOR] = values.integer("POSTGRES_OPERATOR_CONNECTIONS")
    limits[names.OWNER] = values.integer("POSTGRES_OWNER_CONNECTIONS")
    return limits
