"""Where a knob can be read from a running process, for those that stand there as they are.

The others (derived ones, container limits, what only operator commands use) are known from
the record of the last compile.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from infra.compiler.knobs import Knob, Value
from infra.ops.facts import Fact


@dataclass(frozen=True, slots=True)
class Source:
    """The tier, the name of the fact, and the knob's unit over the fact's unit."""

    tier: str
    name: str
    unit: Decimal = Decimal(1)


def read(knob: Knob, source: Source, found: Fact) -> Value:
    """Return a fact as a value of its knob."""
    if isinstance(knob.default, str):
        choices = {choice.lower(): choice for choice in knob.choices}
        return choices.get(str(found), str(found))
    number = Decimal(found) * source.unit
    return int(number) if isinstance(knob.default, int) else number


def _pgbouncer() -> dict[str, Source]:
    config = {
        "MAX_CLIENT_CONNECTIONS": "max_client_conn",
        "RESERVE_TIMEOUT_SECONDS": "reserve_pool_timeout",
        "QUERY_WAIT_TIMEOUT_SECONDS": "query_wait_timeout",
        "SERVER_CONNECT_TIMEOUT_SECONDS": "server_connect_timeout",
        "SERVER_LOGIN_RETRY_SECONDS": "server_login_retry",
        "CLIENT_LOGIN_TIMEOUT_SECONDS": "client_login_timeout",
        "SERVER_LIFETIME_SECONDS": "server_lifetime",
        "SERVER_IDLE_TIMEOUT_SECONDS": "server_idle_timeout",
        "DNS_MAX_TTL_SECONDS": "dns_max_ttl",
        "MAX_PREPARED_STATEMENTS": "max_prepared_statements",
    }
    fields = {
        "POOL_SIZE": "pool_size",
        "RESERVE_SIZE": "reserve_pool_size",
        "MIN_POOL_SIZE": "min_pool_size",
    }
    found = {
        f"PGBOUNCER_{knob}": Source("pgbouncer", f"config.{name}") for knob, name in config.items()
    }
    for kind, entry in {"INTERACTIVE": "risk", "BATCH": "risk_batch"}.items():
        for knob, name in fields.items():
            source = Source("pgbouncer", f"databases.{entry}.{name}")
            found[f"PGBOUNCER_{kind}_{knob}"] = source
    found["API_QUERY_TIMEOUT_SECONDS"] = Source("pgbouncer", "config.query_timeout")
    return found


def _postgres() -> dict[str, Source]:
    settings = {
        "MAX_CONNECTIONS": "max_connections",
        "SUPERUSER_RESERVED_CONNECTIONS": "superuser_reserved_connections",
        "RESERVED_CONNECTIONS": "reserved_connections",
        "BACKUP_CONNECTIONS": "max_wal_senders",
        "AUTOVACUUM_WORKERS": "autovacuum_max_workers",
        "SLOW_STATEMENT_MS": "log_min_duration_statement",
    }
    roles = {"OWNER": "risk_owner", "OPERATOR": "sluice_operator"}
    times = ("lock", "statement", "idle_in_transaction", "transaction")
    found = {
        f"POSTGRES_{knob}": Source("postgres", f"settings.{name}")
        for knob, name in settings.items()
    }
    found["POSTGRES_MAX_WAL_MB"] = Source("postgres", "settings.max_wal_size", Decimal(1) / 1024)
    found["POSTGRES_CHECKPOINT_TIMEOUT_SECONDS"] = Source(
        "postgres", "settings.checkpoint_timeout", Decimal(1) / 1000
    )
    for knob, role in roles.items():
        source = Source("postgres", f"roles.{role}.connection_limit")
        found[f"POSTGRES_{knob}_CONNECTIONS"] = source
    for knob, role in {"API": "risk_api", "WORKER": "risk_worker"}.items():
        for time in times:
            setting = time if time != "idle_in_transaction" else f"{time}_session"
            source = Source("postgres", f"roles.{role}.{setting}_timeout")
            found[f"{knob}_{time.upper()}_TIMEOUT_MS"] = source
    return found


def _app() -> dict[str, Source]:
    milliseconds = Decimal(1000)
    found: dict[str, Source] = {}
    for service in ("api", "worker"):
        pool = {
            "POOL_MIN_SIZE": Source(service, "pool.min_size"),
            "POOL_MAX_SIZE": Source(service, "pool.max_size"),
            "POOL_TIMEOUT_MS": Source(service, "pool.timeout_seconds", milliseconds),
            "POOL_MAX_WAITING": Source(service, "pool.max_waiting"),
            "POOL_LEAK_THRESHOLD_SECONDS": Source(service, "pool.leak_threshold_seconds"),
            "RETRY_BUDGET_SECONDS": Source(service, "pool.retry_budget_seconds"),
            "SHUTDOWN_GRACE_SECONDS": Source(service, "http.shutdown_grace_seconds"),
        }
        found |= {f"{service.upper()}_{knob}": source for knob, source in pool.items()}
    return found | _api() | _worker(milliseconds)


def _api() -> dict[str, Source]:
    names = {
        "API_THREADS": "http.threads",
        "API_REQUEST_DEADLINE_SECONDS": "http.request_deadline_seconds",
        "API_BODY_MAX_BYTES": "http.max_body_bytes",
        "API_EVENT_STREAMS_MAX": "http.event_streams_max",
        "API_SITES_MAX": "limits.sites_max",
        "APP_CONNECT_TIMEOUT_SECONDS": "database.connect_timeout_seconds",
        "APP_PREPARE_THRESHOLD": "database.prepare_threshold",
        "APP_PREPARED_MAX": "database.prepared_max",
        "APP_POOL_MAX_LIFETIME_SECONDS": "pool.max_lifetime_seconds",
        "APP_POOL_MAX_IDLE_SECONDS": "pool.max_idle_seconds",
        "APP_POOL_RECONNECT_TIMEOUT_SECONDS": "pool.reconnect_timeout_seconds",
        "APP_POOL_CONNECTORS": "pool.num_workers",
        "APP_POOL_CHECK_IDLE_SECONDS": "pool.check_idle_seconds",
        "APP_RETRY_ATTEMPTS_MAX": "pool.retry_attempts_max",
        "APP_LOG_LEVEL": "log.level",
        "TCP_USER_TIMEOUT_MS": "database.tcp_user_timeout_ms",
        "TCP_KEEPALIVE_IDLE_SECONDS": "database.keepalives_idle_seconds",
        "TCP_KEEPALIVE_INTERVAL_SECONDS": "database.keepalives_interval_seconds",
        "TCP_KEEPALIVE_COUNT": "database.keepalives_count",
    }
    return {knob: Source("api", name) for knob, name in names.items()}


def _worker(milliseconds: Decimal) -> dict[str, Source]:
    return {
        "WORKER_THREADS": Source("worker", "worker.threads"),
        "WORKER_BATCH_TASKS": Source("worker", "worker.batch_tasks"),
        "WORKER_LEASE_SECONDS": Source("worker", "worker.lease_seconds"),
        "WORKER_POLL_INTERVAL_MS": Source("worker", "worker.poll_interval_seconds", milliseconds),
        "WORKER_TASK_ATTEMPTS_MAX": Source("worker", "worker.attempts_max"),
        "WORKER_TASK_RETRY_DELAY_MS": Source("worker", "worker.retry_delay_seconds", milliseconds),
        "WORKER_BATCH_DEADLINE_SECONDS": Source("worker", "worker.batch_deadline_seconds"),
    }


SOURCES: Final[dict[str, Source]] = {**_pgbouncer(), **_postgres(), **_app()}
