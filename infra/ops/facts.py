"""What is in force in a process, and what should be, in one form: dotted names and values.

The form of a tier's names:
  pgbouncer   config.query_wait_timeout, databases.risk.pool_size
  postgres    settings.work_mem (kB; times in ms), roles.risk_api.statement_timeout (ms),
              roles.risk_api.connection_limit
  api, worker the fields of api.json and worker.json: pool.max_size
"""

import configparser
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from infra.config import documents, names, sizing
from infra.config.render import template
from infra.config.settings import Values
from infra.ops.postgres_admin import RoleInForce, ServerSetting

Fact = str | Decimal
Facts = dict[str, Fact]

_UNITS: Final = {
    "B": Decimal(1) / 1024,
    "kB": Decimal(1),
    "MB": Decimal(1024),
    "GB": Decimal(1024 * 1024),
    "ms": Decimal(1),
    "s": Decimal(1000),
    "min": Decimal(60_000),
    "h": Decimal(3_600_000),
}
_NUMBER: Final = re.compile(r"(-?\d+(?:\.\d+)?) ?([A-Za-z]+)?\Z")
_UNIT_OF_ROW: Final = re.compile(r"(\d*)([A-Za-z]+)\Z")
_LINE: Final = re.compile(r"([a-z_.]+) = (.+)\Z")
_ENTRY_FIELDS: Final = ("pool_size", "reserve_pool_size", "min_pool_size", "max_connections")
# Facts hold no secret.
_NO_VERIFIERS: Final = dict.fromkeys(names.LOGIN_ROLES, "")
# The one setting that PgBouncer reads as octal and shows as decimal.
_OCTAL: Final = "unix_socket_mode"


def fact(value: object) -> Fact:
    """Return a value in the form that compares: a number where it is one, else lower case."""
    text = str(value).strip()
    match = _NUMBER.match(text)
    if match is None or (match.group(2) and match.group(2) not in _UNITS):
        return text.lower()
    return Decimal(match.group(1)) * _UNITS.get(match.group(2) or "", Decimal(1))


def of_pgbouncer(config: Mapping[str, str], databases: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Return the facts of SHOW CONFIG and SHOW DATABASES."""
    found = {f"config.{name}": fact(value) for name, value in config.items()}
    for entry, row in databases.items():
        found |= {f"databases.{entry}.{name}": fact(row[name]) for name in _ENTRY_FIELDS}
    return found


def of_postgres(
    settings: Mapping[str, ServerSetting], roles_found: Mapping[str, RoleInForce]
) -> Facts:
    """Return the facts of pg_settings and pg_roles; not those that this session overrides."""
    found: Facts = {
        f"settings.{one.name}": _with_unit(one.value, one.unit)
        for one in settings.values()
        if one.source not in ("user", "client", "session", "database user")
    }
    for role in roles_found.values():
        found[f"roles.{role.name}.connection_limit"] = Decimal(role.connection_limit)
        found |= {f"roles.{role.name}.{key}": fact(text) for key, text in role.settings.items()}
    return found


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
    """Return what every process of each tier should have in force for these values."""
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
    for role in documents.login_roles(values, _NO_VERIFIERS):
        limits = role.timeouts
        found |= {
            f"roles.{role.name}.connection_limit": Decimal(role.connection_limit),
            f"roles.{role.name}.lock_timeout": Decimal(limits.lock),
            f"roles.{role.name}.statement_timeout": Decimal(limits.statement),
            f"roles.{role.name}.idle_in_transaction_session_timeout": Decimal(
                limits.idle_in_transaction
            ),
            f"roles.{role.name}.transaction_timeout": Decimal(limits.transaction),
        }
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
    return found


def _rendered(name: str, values: Values) -> str:
    return template(name, values, _NO_VERIFIERS).decode()


def _with_unit(value: str, unit: str | None) -> Fact:
    match = _UNIT_OF_ROW.match(unit or "")
    number = fact(value)
    if match is None or isinstance(number, str) or number < 0:
        return number
    return number * int(match.group(1) or 1) * _UNITS[match.group(2)]
