"""The fixed names of the path: roles, the database and its PgBouncer entries, the two clients.

Nothing here imports anything of infra.config, so that everything may import this.
"""

from dataclasses import dataclass
from typing import Final

DATABASE: Final = "risk"
MONITOR_ENTRY: Final = "risk_monitor"

OWNER: Final = "risk_owner"
MONITOR: Final = "sluice_monitor"
OPERATOR: Final = "sluice_operator"
# Of three instances: standbys follow by it, and a former primary is rewound.
REPLICATION: Final = "sluice_replication"

# The hosts of three instances. `postgres` then is HAProxy before them: PRIMARY_PORT leads to the
# primary, STANDBY_PORT to the standbys.
INSTANCES: Final = ("postgres-1", "postgres-2", "postgres-3")
ETCD: Final = ("etcd-1", "etcd-2", "etcd-3")
PRIMARY_PORT: Final = 5432
STANDBY_PORT: Final = 5433
PATRONI_PORT: Final = 8008
# What follows the name of a client's entry in that of the one to the standbys.
STANDBY_SUFFIX: Final = "_ro"

# How PgBouncer reaches PostgreSQL, by the value of PGBOUNCER_SERVER_HOP: the host of its entries.
# The socket's directory is a volume that only these two tiers mount.
SERVER_HOSTS: Final = {"socket": "/run/postgresql", "tls": "postgres"}


def server_hop(host: str) -> str:
    """Return the way that leads to this host; the host itself when it is not one of ours."""
    return next((hop for hop, ours in SERVER_HOSTS.items() if ours == host), host)


# PGBOUNCER_IGNORE_STARTUP_PARAMETERS: the word for an empty list.
NO_PARAMETERS: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What comes through PgBouncer under a role of its own; sizes and times: their settings.

    Where `pool_mode`, `query_wait_timeout` or `max_client_connections` name no setting, the
    stack's own holds.
    """

    role: str
    entry: str
    # Of PostgreSQL, and who migrates it; the owner does not come through PgBouncer.
    database: str
    owner: str
    server_pool_size: str
    server_reserve_size: str
    server_min_pool_size: str
    lock_timeout: str
    statement_timeout: str
    idle_in_transaction_timeout: str
    transaction_timeout: str
    query_timeout: str
    pool_mode: str = ""
    query_wait_timeout: str = ""
    max_client_connections: str = ""

    @property
    def sizes(self) -> tuple[str, ...]:
        """The settings of its server connections in each replica."""
        return (self.server_pool_size, self.server_reserve_size, self.server_min_pool_size)

    @property
    def limits(self) -> tuple[str, ...]:
        """The settings of the time limits at the servers, in the order in which they must grow."""
        return (
            self.lock_timeout,
            self.statement_timeout,
            self.idle_in_transaction_timeout,
            self.transaction_timeout,
            self.query_timeout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Client):
    """A client that is one of the project's own services, and has a pool in its processes."""

    service: str
    pool_min_size: str
    pool_max_size: str
    pool_timeout: str
    pool_max_waiting: str
    leak_threshold: str
    retry_budget: str
    deadline: str

    @property
    def timeouts(self) -> tuple[str, ...]:
        """The settings of its time limits, in the order in which they must grow."""
        return (*self.limits, self.deadline)


API: Final = Service(
    service="api",
    role="risk_api",
    entry="risk",
    database=DATABASE,
    owner=OWNER,
    server_pool_size="PGBOUNCER_INTERACTIVE_POOL_SIZE",
    server_reserve_size="PGBOUNCER_INTERACTIVE_RESERVE_SIZE",
    server_min_pool_size="PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE",
    pool_min_size="API_POOL_MIN_SIZE",
    pool_max_size="API_POOL_MAX_SIZE",
    pool_timeout="API_POOL_TIMEOUT_MS",
    pool_max_waiting="API_POOL_MAX_WAITING",
    leak_threshold="API_POOL_LEAK_THRESHOLD_SECONDS",
    retry_budget="API_RETRY_BUDGET_SECONDS",
    lock_timeout="API_LOCK_TIMEOUT_MS",
    statement_timeout="API_STATEMENT_TIMEOUT_MS",
    idle_in_transaction_timeout="API_IDLE_IN_TRANSACTION_TIMEOUT_MS",
    transaction_timeout="API_TRANSACTION_TIMEOUT_MS",
    query_timeout="API_QUERY_TIMEOUT_SECONDS",
    deadline="API_REQUEST_DEADLINE_SECONDS",
)
WORKER: Final = Service(
    service="worker",
    role="risk_worker",
    entry="risk_batch",
    database=DATABASE,
    owner=OWNER,
    server_pool_size="PGBOUNCER_BATCH_POOL_SIZE",
    server_reserve_size="PGBOUNCER_BATCH_RESERVE_SIZE",
    server_min_pool_size="PGBOUNCER_BATCH_MIN_POOL_SIZE",
    pool_min_size="WORKER_POOL_MIN_SIZE",
    pool_max_size="WORKER_POOL_MAX_SIZE",
    pool_timeout="WORKER_POOL_TIMEOUT_MS",
    pool_max_waiting="WORKER_POOL_MAX_WAITING",
    leak_threshold="WORKER_POOL_LEAK_THRESHOLD_SECONDS",
    retry_budget="WORKER_RETRY_BUDGET_SECONDS",
    lock_timeout="WORKER_LOCK_TIMEOUT_MS",
    statement_timeout="WORKER_STATEMENT_TIMEOUT_MS",
    idle_in_transaction_timeout="WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS",
    transaction_timeout="WORKER_TRANSACTION_TIMEOUT_MS",
    query_timeout="WORKER_QUERY_TIMEOUT_SECONDS",
    query_wait_timeout="WORKER_QUERY_WAIT_TIMEOUT_SECONDS",
    deadline="WORKER_BATCH_DEADLINE_SECONDS",
)
SERVICES: Final = (API, WORKER)
CONTROL_PORT: Final = 9000
# Where every worker listens for hints of the api, on the pool network.
HINT_ALIAS: Final = "worker-hints"
HINT_PORT: Final = 9001
# Each service has a certificate and a token of its own, so that one that was broken into can
# neither pose as the other nor command it.
# By service: its alias on the control network, which is also the host name of its certificate.
CONTROL_ALIASES: Final = {"api": "api-control", "worker": "worker-control"}
