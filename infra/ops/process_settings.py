"""The settings of a process in one form, dotted names and values, and where each comes from.

The form of a tier's names:
  pgbouncer   config.query_wait_timeout, databases.risk.pool_size,
              sessions.risk.statement_timeout (ms): in the server connections, where looked at
  postgres    settings.work_mem (kB; times in ms), roles.risk_api.statement_timeout (ms),
              roles.risk_api.connection_limit, .login, .password (issued, or another);
              roles.risk_api@risk.work_mem: in that database only; roles.all: of every role
  api, worker the fields of api.json and worker.json: pool.max_size

What a process answers is brought into this form, and so is what it should answer; a `Source` says
under which name a setting of the env file stands there as it is.
"""

import configparser
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from infra.config import clients, documents, extra, names, roles, sizing
from infra.config.names import API, OPERATOR, OWNER, SERVICES
from infra.config.render import template
from infra.config.settings import Setting, Value, Values
from infra.ops.clients.postgres import RoleSettings, ServerSetting

Fact = str | Decimal
Facts = dict[str, Fact]

_NUMBER: Final = re.compile(r"(-?\d+(?:\.\d+)?) ?([A-Za-z]+)?\Z")
_UNIT_OF_ROW: Final = re.compile(r"(\d*)([A-Za-z]+)\Z")
_LINE: Final = re.compile(r"([a-z_.]+) = (.+)\Z")
_ENTRY_FIELDS: Final = ("pool_size", "reserve_pool_size", "min_pool_size", "max_connections")
# Where a session has a setting from that is not the server's: itself, its role, its database.
_OF_A_SESSION: Final = ("session", "client", "user", "database user", "database", "global")
# Whatever these hold that is not expected was set outside.
WHOLE: Final = ("roles.", "sessions.")
# A password by whether it is the one that was issued: facts hold no secret.
_ISSUED: Final = "issued"
# The one setting that PgBouncer reads as octal and shows as decimal.
_OCTAL: Final = "unix_socket_mode"
_MILLISECONDS: Final = Decimal(1000)


def fact(value: object) -> Fact:
    """Return a value in the form that compares: a number where it is one, else lower case."""
    text = str(value).strip()
    match = _NUMBER.match(text)
    if match is None or (match.group(2) and match.group(2) not in extra.UNITS):
        return text.lower()
    return Decimal(match.group(1)) * extra.UNITS.get(match.group(2) or "", Decimal(1))


def of_pgbouncer(config: Mapping[str, str], databases: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Return the facts of SHOW CONFIG and SHOW DATABASES."""
    found = {f"config.{name}": fact(value) for name, value in config.items()}
    for entry, row in databases.items():
        found |= {f"databases.{entry}.{name}": fact(row[name]) for name in _ENTRY_FIELDS}
        found[f"databases.{entry}.server_hop"] = names.server_hop(row["host"])
        found[f"databases.{entry}.pool_mode"] = fact(row["pool_mode"])
    return found


def of_postgres(
    settings: Mapping[str, ServerSetting], found_roles: Mapping[str, RoleSettings]
) -> Facts:
    """Return the facts of pg_settings and pg_roles; not those that this session overrides."""
    found: Facts = {
        f"settings.{one.name}": _with_unit(one.value, one.unit)
        for one in settings.values()
        if one.source not in _OF_A_SESSION
    }
    for role in found_roles.values():
        found[f"roles.{role.name}.connection_limit"] = Decimal(role.connection_limit)
        found |= _role(role.name, role.attributes | role.settings)
    return found


def of_roles(
    digests: Mapping[str, str | None],
    issued: Mapping[str, str],
    other_settings: Mapping[str, Mapping[str, str]],
) -> Facts:
    """Return the facts of passwords, and of settings in one database or of every role.

    `digests` are those of the server, `issued` those of the verifiers that it was given.
    """
    found: Facts = {}
    for role, one in digests.items():
        if role not in issued:
            continue
        known = _ISSUED if one == issued[role] else "another" if one else "none"
        found[f"roles.{role}.password"] = known
    for name, settings in other_settings.items():
        found |= _role(name, settings)
    return found


def of_sessions(entry: str, sessions: Sequence[Mapping[str, ServerSetting]]) -> Facts:
    """Return the facts of an entry's server connections, each with its own settings by name.

    Where they differ, or only some have a setting of their own, with how many have which.
    """
    found: Facts = {}
    for name in sorted({name for one in sessions for name in one}):
        values = [_text_of(one.get(name)) for one in sessions]
        counted = Counter(values)
        if len(counted) == 1:
            found[f"sessions.{entry}.{name}"] = values[0]
        else:
            parts = (f"{text(one)} in {count}" for one, count in counted.most_common())
            found[f"sessions.{entry}.{name}"] = ", ".join(parts)
    return found


def _text_of(setting: ServerSetting | None) -> Fact:
    return "not set" if setting is None else _with_unit(setting.value, setting.unit)


def text(value: Fact | None) -> str:
    """Return a fact as people read it."""
    if value is None:
        return "not there"
    return value if isinstance(value, str) else f"{value.normalize():f}"


def cause(name: str) -> str:
    """Return what sets a fact outside the env file: the statement, for what a role can do."""
    kind, _, rest = name.partition(".")
    if kind == "sessions":
        entry, _, setting = rest.partition(".")
        return f"SET {setting} by a client of {entry}, which the server connection kept"
    if kind != "roles":
        return ""
    # A role's name has no dot, a setting's may.
    role, _, what = rest.partition(".")
    if what == "member_of":
        return f"GRANT ... TO {role}, or REVOKE"
    role, _, database = role.partition("@")
    words = ["ALTER ROLE", role.upper() if role == "all" else role]
    words += ["IN DATABASE", database] if database else []
    attribute = what in (*roles.ATTRIBUTES, "connection_limit", "password")
    words.append(what.replace("_", " ").upper() if attribute else f"SET {what}")
    return " ".join(words)


def _role(name: str, values: Mapping[str, str]) -> Facts:
    return {f"roles.{name}.{key}": fact(value) for key, value in values.items()}


def of_app(document: Mapping[str, Any], prefix: str = "") -> Facts:
    """Return the facts of a settings document of the app."""
    found: Facts = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= of_app(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = fact(value)
    return found


def expected(values: Values) -> dict[str, Facts]:
    """Return what every process of each tier should run with for these values."""
    return {
        "postgres": _postgres(values),
        "pgbouncer": _pgbouncer(values),
        "api": of_app(documents.api(values)),
        "worker": of_app(documents.worker(values)),
    }


def _postgres(values: Values) -> Facts:
    text = _rendered("postgresql.conf", values)
    lines = (_LINE.match(line) for line in text.splitlines())
    pairs = (match.groups() for match in lines if match)
    found: Facts = {f"settings.{name}": fact(value.strip("'")) for name, value in pairs}
    for role in roles.login_roles(values, roles.no_verifiers(values)):
        found |= _role(role.name, {**role.attributes, **role.settings, "password": _ISSUED})
        found[f"roles.{role.name}.connection_limit"] = Decimal(role.connection_limit)
    return found


def _pgbouncer(values: Values) -> Facts:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(_rendered("pgbouncer.ini", values))
    found = {f"config.{name}": fact(value) for name, value in parser["pgbouncer"].items()}
    found[f"config.{_OCTAL}"] = Decimal(int(parser["pgbouncer"][_OCTAL], 8))
    for pool in sizing.pools(values):
        numbers = (pool.size, pool.reserve, pool.minimum, pool.limit)
        found |= {
            f"databases.{pool.entry}.{name}": Decimal(number)
            for name, number in zip(_ENTRY_FIELDS, numbers, strict=True)
        }
        found[f"databases.{pool.entry}.server_hop"] = values.text("PGBOUNCER_SERVER_HOP")
        found[f"databases.{pool.entry}.pool_mode"] = pool.mode
    settings = {
        one.name: one.settings for one in roles.login_roles(values, roles.no_verifiers(values))
    }
    for client in clients.every(values):
        found |= {
            f"sessions.{client.entry}.{name}": fact(value)
            for name, value in settings[client.role].items()
        }
    return found


def _rendered(name: str, values: Values) -> str:
    return template(name, values, roles.no_verifiers(values)).decode()


def _with_unit(value: str, unit: str | None) -> Fact:
    match = _UNIT_OF_ROW.match(unit or "")
    number = fact(value)
    if match is None or isinstance(number, str) or number < 0:
        return number
    return number * int(match.group(1) or 1) * extra.UNITS[match.group(2)]


@dataclass(frozen=True, slots=True)
class Source:
    """The tier, the name of the fact, and the setting's unit over the fact's unit."""

    tier: str
    name: str
    unit: Decimal = Decimal(1)


def read(setting: Setting, source: Source, found: Fact) -> Value:
    """Return a fact as a value of its setting."""
    if isinstance(setting.default, str):
        choices = {choice.lower(): choice for choice in setting.choices}
        # Only a list can be empty.
        return choices.get(str(found), str(found)) or names.NO_PARAMETERS
    number = Decimal(found) * source.unit
    return int(number) if isinstance(setting.default, int) else number


def given_to_postgres(settings: Mapping[str, ServerSetting]) -> frozenset[str]:
    """Return the keys of extra parameters that the server has from its file."""
    keys = (
        extra.key(extra.POSTGRES_FILE, one.name)
        for one in settings.values()
        if one.source == "configuration file"
    )
    return frozenset(key for key in keys if extra.find(key))


def given_to_pgbouncer(found: Facts) -> frozenset[str]:
    """Return the keys of extra parameters, of those a restart changes, that have another value.

    Those that change live are stated in its file, given or not.
    """
    known = extra.parameters(extra.PGBOUNCER_FILE).values()
    return frozenset(
        extra.key(extra.PGBOUNCER_FILE, one.name)
        for one in known
        if one.restart
        and not one.refused
        and found.get(f"config.{one.name}", fact(one.default)) != fact(one.default)
    )


def of_parameter(key: str) -> Source:
    """Return where a parameter of an extra file can be read."""
    file, _, name = key.partition(":")
    if file == extra.POSTGRES_FILE:
        return Source("postgres", f"settings.{name}")
    return Source("pgbouncer", f"config.{name}")


def read_parameter(key: str, found: Fact, texts: Iterable[str]) -> Value:
    """Return the one of `texts` that a fact is the value of, or the fact as a value."""
    file, _, name = key.partition(":")
    same = (text for text in texts if fact(text) == found)
    known = found if isinstance(found, str) else extra.parameters(file)[name].shown(found)
    return next(same, known)


def _pgbouncer_sources() -> dict[str, Source]:
    config = {
        "PGBOUNCER_MAX_CLIENT_CONNECTIONS": "max_client_conn",
        "PGBOUNCER_RESERVE_TIMEOUT_SECONDS": "reserve_pool_timeout",
        "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS": "query_wait_timeout",
        "PGBOUNCER_SERVER_CONNECT_TIMEOUT_SECONDS": "server_connect_timeout",
        "PGBOUNCER_SERVER_LOGIN_RETRY_SECONDS": "server_login_retry",
        "PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS": "client_login_timeout",
        "PGBOUNCER_SERVER_LIFETIME_SECONDS": "server_lifetime",
        "PGBOUNCER_SERVER_IDLE_TIMEOUT_SECONDS": "server_idle_timeout",
        "PGBOUNCER_DNS_MAX_TTL_SECONDS": "dns_max_ttl",
        "PGBOUNCER_LOG_VERBOSITY": "verbose",
        "PGBOUNCER_MAX_PREPARED_STATEMENTS": "max_prepared_statements",
        "PGBOUNCER_SERVER_RESET_QUERY_ALWAYS": "server_reset_query_always",
        "PGBOUNCER_IGNORE_STARTUP_PARAMETERS": "ignore_startup_parameters",
        "API_QUERY_TIMEOUT_SECONDS": "query_timeout",
    }
    found = {name: Source("pgbouncer", f"config.{key}") for name, key in config.items()}
    found["PGBOUNCER_MAX_PACKET_KB"] = Source(
        "pgbouncer", "config.max_packet_size", Decimal(1) / 1024
    )
    found["PGBOUNCER_SERVER_HOP"] = Source("pgbouncer", f"databases.{API.entry}.server_hop")
    for client in SERVICES:
        fields = {
            client.server_pool_size: "pool_size",
            client.server_reserve_size: "reserve_pool_size",
            client.server_min_pool_size: "min_pool_size",
        }
        found |= {
            name: Source("pgbouncer", f"databases.{client.entry}.{field}")
            for name, field in fields.items()
        }
    return found


def _postgres_sources() -> dict[str, Source]:
    settings = {
        "POSTGRES_MAX_CONNECTIONS": "max_connections",
        "POSTGRES_SUPERUSER_RESERVED_CONNECTIONS": "superuser_reserved_connections",
        "POSTGRES_RESERVED_CONNECTIONS": "reserved_connections",
        "POSTGRES_BACKUP_CONNECTIONS": "max_wal_senders",
        "POSTGRES_AUTOVACUUM_WORKERS": "autovacuum_max_workers",
        "POSTGRES_LOG_MIN_MESSAGES": "log_min_messages",
        "POSTGRES_SLOW_STATEMENT_MS": "log_min_duration_statement",
    }
    limits = {"POSTGRES_OWNER_CONNECTIONS": OWNER, "POSTGRES_OPERATOR_CONNECTIONS": OPERATOR}
    found = {name: Source("postgres", f"settings.{key}") for name, key in settings.items()}
    found |= {
        name: Source("postgres", f"roles.{role}.connection_limit") for name, role in limits.items()
    }
    found["POSTGRES_MAX_WAL_MB"] = Source("postgres", "settings.max_wal_size", Decimal(1) / 1024)
    found["POSTGRES_CHECKPOINT_TIMEOUT_SECONDS"] = Source(
        "postgres", "settings.checkpoint_timeout", Decimal(1) / 1000
    )
    found["BACKUPS"] = Source("postgres", "settings.archive_mode")
    found["BACKUP_ARCHIVE_TIMEOUT_SECONDS"] = Source(
        "postgres", "settings.archive_timeout", Decimal(1) / 1000
    )
    for client in SERVICES:
        times = {
            client.lock_timeout: "lock_timeout",
            client.statement_timeout: "statement_timeout",
            client.idle_in_transaction_timeout: "idle_in_transaction_session_timeout",
            client.transaction_timeout: "transaction_timeout",
        }
        found |= {
            name: Source("postgres", f"roles.{client.role}.{key}") for name, key in times.items()
        }
    return found


def _app_sources() -> dict[str, Source]:
    found: dict[str, Source] = {}
    for one in SERVICES:
        found |= {
            one.pool_min_size: Source(one.service, "pool.min_size"),
            one.pool_max_size: Source(one.service, "pool.max_size"),
            one.pool_timeout: Source(one.service, "pool.timeout_seconds", _MILLISECONDS),
            one.pool_max_waiting: Source(one.service, "pool.max_waiting"),
            one.leak_threshold: Source(one.service, "pool.leak_threshold_seconds"),
            one.retry_budget: Source(one.service, "pool.retry_budget_seconds"),
        }
    return found | _api_sources() | _worker_sources()


def _api_sources() -> dict[str, Source]:
    fields = {
        "API_PROCESSES": "processes",
        "API_THREADS": "http.threads",
        "API_SHUTDOWN_GRACE_SECONDS": "http.shutdown_grace_seconds",
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
        "API_LOG_LEVEL": "log.level",
        "API_LOG_FORMAT": "log.format",
        "TCP_USER_TIMEOUT_MS": "database.tcp_user_timeout_ms",
        "TCP_KEEPALIVE_IDLE_SECONDS": "database.keepalives_idle_seconds",
        "TCP_KEEPALIVE_INTERVAL_SECONDS": "database.keepalives_interval_seconds",
        "TCP_KEEPALIVE_COUNT": "database.keepalives_count",
    }
    return {setting: Source("api", name) for setting, name in fields.items()}


def _worker_sources() -> dict[str, Source]:
    return {
        "WORKER_LOG_LEVEL": Source("worker", "log.level"),
        "WORKER_LOG_FORMAT": Source("worker", "log.format"),
        "WORKER_THREADS": Source("worker", "worker.threads"),
        "WORKER_SHUTDOWN_GRACE_SECONDS": Source("worker", "http.shutdown_grace_seconds"),
        "WORKER_BATCH_TASKS": Source("worker", "worker.batch_tasks"),
        "WORKER_LEASE_SECONDS": Source("worker", "worker.lease_seconds"),
        "WORKER_POLL_INTERVAL_MS": Source("worker", "worker.poll_interval_seconds", _MILLISECONDS),
        "WORKER_POLL_INTERVAL_MAX_MS": Source(
            "worker", "worker.poll_interval_max_seconds", _MILLISECONDS
        ),
        "WORKER_TASK_ATTEMPTS_MAX": Source("worker", "worker.attempts_max"),
        "WORKER_TASK_RETRY_DELAY_MS": Source("worker", "worker.retry_delay_seconds", _MILLISECONDS),
        "WORKER_BATCH_DEADLINE_SECONDS": Source("worker", "worker.batch_deadline_seconds"),
    }


# The others (derived ones, container limits, what only operator commands use) are known from the
# record of the last compile.
SOURCES: Final[dict[str, Source]] = {
    **_pgbouncer_sources(),
    **_postgres_sources(),
    **_app_sources(),
}
