"""What the tiers are told beside their configuration files: settings documents.

api.json, worker.json and migrate.json are what app/settings.py reads; ops.json says where the
tiers are, compiled.json what was compiled last.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from infra.config import names, resources, roles, sizing
from infra.config.derived import derived_settings
from infra.config.names import (
    API,
    CONTROL_ALIASES,
    CONTROL_PORT,
    DATABASE,
    OWNER,
    WORKER,
    Service,
)
from infra.config.settings import Value, Values

Section = dict[str, object]


# Health and metrics of api and worker. It is not published.
MONITOR_PORT = 8001
_API_PORT = 8000
# The worker's HTTP server answers health and metrics only.
_STATUS_THREADS = 4
_STATUS_DEADLINE_SECONDS = 5.0
_STATUS_BODY_BYTES = 1024


def api(values: Values) -> Section:
    """Return the whole of api.json."""
    return {
        "service": "api",
        "processes": values.integer("API_PROCESSES"),
        "monitor_port": MONITOR_PORT,
        "http": _api_http(values),
        "database": _pooled(values, API),
        "pool": _pool(values, API),
        "standby": _standby(values),
        "limits": {"sites_max": values.integer("API_SITES_MAX")},
        "log": _log(values, "API_LOG_LEVEL", "API_LOG_FORMAT"),
        "control": _served("api"),
        "hints": {"host": names.HINT_ALIAS, "port": names.HINT_PORT},
    }


def _standby(values: Values) -> Section:
    """Return where to read while there is no primary; without a name there is no such place."""
    name = f"{API.entry}{names.STANDBY_SUFFIX}" if sizing.is_replicated(values) else ""
    return {"dbname": name, "max_size": sizing.STANDBY_POOL_SIZE}


def worker(values: Values) -> Section:
    """Return the whole of worker.json."""
    return {
        "service": "worker",
        "http": _status_http(values),
        "database": _pooled(values, WORKER),
        "pool": _pool(values, WORKER),
        "worker": _work(values),
        "log": _log(values, "WORKER_LOG_LEVEL", "WORKER_LOG_FORMAT"),
        "control": _served("worker"),
        "hints": {"host": "0.0.0.0", "port": names.HINT_PORT},  # noqa: S104  # in its container
    }


def migrate(values: Values) -> Section:
    """Return the whole of migrate.json: direct to PostgreSQL, as the owner."""
    target = {"host": "postgres", "port": 5432, "load_balance_hosts": "disable"}
    return {
        "service": "migrate",
        "database": _database(values, "migrate", DATABASE, OWNER) | target,
        "reference": {"grid_degrees": float(values.number("REFERENCE_GRID_DEGREES"))},
        "log": _log(values, "API_LOG_LEVEL", "API_LOG_FORMAT"),
    }


def _api_http(values: Values) -> Section:
    return {
        "host": "0.0.0.0",  # noqa: S104  # in its container; API_BIND_ADDRESS is the host's
        "port": _API_PORT,
        "max_body_bytes": values.integer("API_BODY_MAX_BYTES"),
        "request_deadline_seconds": _seconds(values, "API_REQUEST_DEADLINE_SECONDS"),
        "threads": values.integer("API_THREADS"),
        "event_streams_max": values.integer("API_EVENT_STREAMS_MAX"),
        "shutdown_grace_seconds": _seconds(values, "API_SHUTDOWN_GRACE_SECONDS"),
    }


def _status_http(values: Values) -> Section:
    return {
        "host": "0.0.0.0",  # noqa: S104  # inside its container, not published
        "port": MONITOR_PORT,
        "max_body_bytes": _STATUS_BODY_BYTES,
        "request_deadline_seconds": _STATUS_DEADLINE_SECONDS,
        "threads": _STATUS_THREADS,
        "event_streams_max": 1,
        "shutdown_grace_seconds": _seconds(values, "WORKER_SHUTDOWN_GRACE_SECONDS"),
    }


def _pooled(values: Values, service: Service) -> Section:
    target = {"host": "pgbouncer", "port": 6432, "load_balance_hosts": "random"}
    return _database(values, service.service, service.entry, service.role) | target


def _database(values: Values, service: str, dbname: str, user: str) -> Section:
    return {
        "dbname": dbname,
        "user": user,
        "password_file": f"/etc/sluice/{service}.password",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/sluice/ca.crt",
        "application_name": f"sluice-{service}",
        "connect_timeout_seconds": values.integer("APP_CONNECT_TIMEOUT_SECONDS"),
        "tcp_user_timeout_ms": values.integer("TCP_USER_TIMEOUT_MS"),
        "keepalives_idle_seconds": values.integer("TCP_KEEPALIVE_IDLE_SECONDS"),
        "keepalives_interval_seconds": values.integer("TCP_KEEPALIVE_INTERVAL_SECONDS"),
        "keepalives_count": values.integer("TCP_KEEPALIVE_COUNT"),
        "prepare_threshold": values.integer("APP_PREPARE_THRESHOLD"),
        "prepared_max": values.integer("APP_PREPARED_MAX"),
    }


def _pool(values: Values, service: Service) -> Section:
    return {
        "min_size": values.integer(service.pool_min_size),
        "max_size": values.integer(service.pool_max_size),
        "timeout_seconds": _seconds(values, service.pool_timeout),
        "max_waiting": values.integer(service.pool_max_waiting),
        "max_lifetime_seconds": _seconds(values, "APP_POOL_MAX_LIFETIME_SECONDS"),
        "max_idle_seconds": _seconds(values, "APP_POOL_MAX_IDLE_SECONDS"),
        "reconnect_timeout_seconds": _seconds(values, "APP_POOL_RECONNECT_TIMEOUT_SECONDS"),
        "num_workers": values.integer("APP_POOL_CONNECTORS"),
        "check_idle_seconds": _seconds(values, "APP_POOL_CHECK_IDLE_SECONDS"),
        "leak_threshold_seconds": _seconds(values, service.leak_threshold),
        "retry_budget_seconds": _seconds(values, service.retry_budget),
        "retry_attempts_max": values.integer("APP_RETRY_ATTEMPTS_MAX"),
    }


def _work(values: Values) -> Section:
    return {
        "threads": values.integer("WORKER_THREADS"),
        "batch_tasks": values.integer("WORKER_BATCH_TASKS"),
        "lease_seconds": _seconds(values, "WORKER_LEASE_SECONDS"),
        "poll_interval_seconds": _seconds(values, "WORKER_POLL_INTERVAL_MS"),
        "poll_interval_max_seconds": _seconds(values, "WORKER_POLL_INTERVAL_MAX_MS"),
        "attempts_max": values.integer("WORKER_TASK_ATTEMPTS_MAX"),
        "retry_delay_seconds": _seconds(values, "WORKER_TASK_RETRY_DELAY_MS"),
        "batch_deadline_seconds": _seconds(values, "WORKER_BATCH_DEADLINE_SECONDS"),
        "shutdown_grace_seconds": _seconds(values, "WORKER_SHUTDOWN_GRACE_SECONDS"),
    }


def _log(values: Values, level: str, form: str) -> Section:
    return {"level": values.text(level), "format": values.text(form)}


def _seconds(values: Values, name: str) -> float:
    return float(values.seconds(name))


def _served(service: str) -> Section:
    """Return the section `control` of a service's settings file.

    Each process of a container has a port of its own: this one, the next, and so on.
    """
    alias = CONTROL_ALIASES[service]
    return {
        "alias": alias,
        "port": CONTROL_PORT,
        "certificate_file": f"/etc/sluice/{alias}.crt",
        "key_file": f"/etc/sluice/{alias}.key",
        "token_file": f"/etc/sluice/{alias}.token",
    }


def _called(values: Values, directory: str) -> Section:
    """Return the section `control` of ops.json; the operator's files are in `directory`."""
    replicas = {one: values.integer(f"{one.upper()}_REPLICAS") for one in CONTROL_ALIASES}
    processes = replicas | {"api": replicas["api"] * values.integer("API_PROCESSES")}
    services = {
        service: {
            "alias": alias,
            "token_file": f"{directory}/{alias}.token",
            "replicas": replicas[service],
            "processes": processes[service],
        }
        for service, alias in CONTROL_ALIASES.items()
    }
    return {"port": CONTROL_PORT, "services": services}


_CONFIG_DIR = "/etc/sluice/ops"


def ops(values: Values, verifiers: Mapping[str, str] = MappingProxyType({})) -> Section:
    """Return the whole of ops.json; of the verifiers it has digests only."""
    return {
        "postgres": {
            "host": "postgres",
            "port": 5432,
            "dbname": names.DATABASE,
            "instances": list(sizing.instances(values)),
            "processors": resources.processors(values),
            "disk_reserve_mb": resources.disk_reserve_mb(values),
            "verifier_digests": {role: roles.digest(one) for role, one in verifiers.items()},
        },
        "pgbouncer": {
            "host": "pgbouncer",
            "port": 6432,
            "admin_dbname": "pgbouncer",
            "replicas": values.integer("PGBOUNCER_REPLICAS"),
            "server_hop": values.text("PGBOUNCER_SERVER_HOP"),
        },
        "users": {
            "operator": _user(names.OPERATOR, "operator"),
            "monitor": _user(names.MONITOR, "monitor"),
        },
        "sslmode": "verify-full",
        "sslrootcert": f"{_CONFIG_DIR}/ca.crt",
        "connect_timeout_seconds": values.integer("APP_CONNECT_TIMEOUT_SECONDS"),
        "control": _called(values, _CONFIG_DIR),
        "pause": {
            "drain_seconds": values.integer("PAUSE_DRAIN_SECONDS"),
            "max_seconds": values.integer("PAUSE_MAX_SECONDS"),
            "query_wait_timeout_seconds": values.integer("PAUSE_QUERY_WAIT_TIMEOUT_SECONDS"),
            "dead_man_seconds": values.integer("PAUSE_DEAD_MAN_SECONDS"),
        },
        "budget": budget(values),
    }


def backups(values: Values) -> Section:
    """Return backups.json: when the service backup makes which backup, and where to."""
    return {
        "enabled": values.text("BACKUPS") == "on",
        "time_utc": values.text("BACKUP_TIME_UTC"),
        "full_every_days": values.integer("BACKUP_FULL_EVERY_DAYS"),
        "directory": values.text("BACKUP_REPOSITORY") == "directory",
        "suffixes": sizing.suffixes(values),
    }


def _user(name: str, file: str) -> Section:
    return {"name": name, "password_file": f"{_CONFIG_DIR}/{file}.password"}


def budget(values: Values) -> dict[str, int]:
    """Return the connection arithmetic in whole numbers."""
    accepted = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    return {
        "app_pool_connections": sizing.app_pools(values),
        "client_connections_max": accepted,
        "client_connections_spare": accepted - sizing.client_demand(values),
        "server_connections_per_replica": sizing.per_replica(values),
        "server_connections_pooled": sizing.pooled(values),
        "server_connections_direct": sizing.direct(values),
        "server_connections_reserved": sizing.reserved(values),
        "server_connections_spare": sizing.spare(values),
        "max_connections": values.integer("POSTGRES_MAX_CONNECTIONS"),
    }


def compiled(values: Values) -> Section:
    """Return every setting and derived setting as this run compiled them."""
    return {
        "settings": {name: plain(value) for name, value in values.as_dict().items()},
        "derived": {item.name: item.value for item in derived_settings(values)},
        "role_connection_limits": sizing.role_limits(values),
        "budget": budget(values),
    }


def plain(value: Value) -> int | float | str:
    """Return a setting's value as JSON holds it."""
    return float(value) if isinstance(value, Decimal) else value
