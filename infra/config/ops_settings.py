"""The files of the operator commands: where the tiers are, and what was compiled last."""

from decimal import Decimal

from infra.config import control, names, sizing
from infra.config.settings import Value, Values

Section = dict[str, object]

_CONFIG_DIR = "/etc/sluice/ops"


def ops(values: Values) -> Section:
    """Return the whole of ops.json."""
    return {
        "postgres": {
            "host": "postgres",
            "port": 5432,
            "dbname": names.DATABASE,
            "processors": sizing.processors(values),
            "disk_reserve_mb": sizing.disk_reserve_mb(values),
        },
        "pgbouncer": {
            "host": "pgbouncer",
            "port": 6432,
            "admin_dbname": "pgbouncer",
            "replicas": values.integer("PGBOUNCER_REPLICAS"),
        },
        "users": {
            "owner": _user(names.OWNER, "owner"),
            "operator": _user(names.OPERATOR, "operator"),
            "monitor": _user(names.MONITOR, "monitor"),
        },
        "sslmode": "verify-full",
        "sslrootcert": f"{_CONFIG_DIR}/ca.crt",
        "connect_timeout_seconds": values.integer("APP_CONNECT_TIMEOUT_SECONDS"),
        "control": control.called(values, _CONFIG_DIR),
        "worker_replicas": values.integer("WORKER_REPLICAS"),
        "pause": {
            "drain_seconds": values.integer("PAUSE_DRAIN_SECONDS"),
            "max_seconds": values.integer("PAUSE_MAX_SECONDS"),
            "query_wait_timeout_seconds": values.integer("PAUSE_QUERY_WAIT_TIMEOUT_SECONDS"),
            "dead_man_seconds": values.integer("PAUSE_DEAD_MAN_SECONDS"),
        },
        "budget": budget(values),
    }


def _user(name: str, file: str) -> Section:
    return {"name": name, "password_file": f"{_CONFIG_DIR}/{file}.password"}


def budget(values: Values) -> dict[str, int]:
    """Return the connection arithmetic in whole numbers."""
    clients = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    return {
        "app_pool_connections": sizing.app_pools(values),
        "client_connections_max": clients,
        "client_connections_spare": clients - sizing.client_demand(values),
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
        "derived": {item.name: item.value for item in sizing.derived_settings(values)},
        "role_connection_limits": sizing.role_limits(values),
        "budget": budget(values),
    }


def plain(value: Value) -> int | float | str:
    """Return a setting's value as JSON holds it."""
    return float(value) if isinstance(value, Decimal) else value
