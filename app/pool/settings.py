"""The settings of a pool: unit last in the name, range checked when the object is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

MINIMUM_CONNECT_TIMEOUT_SECONDS = 2  # libpq and psycopg raise anything lower to this
PORT_MAX = 65535
SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
LOAD_BALANCE_HOSTS = frozenset({"disable", "random"})


def _below(settings: object, group: str, minimum: Mapping[str, float]) -> Iterator[str]:
    for name, least in minimum.items():
        value = getattr(settings, name)
        # The other way round NaN would pass.
        if value is not None and not value >= least:
            yield f"{group}.{name}={value} is below {least:g}; give it {least:g} or more"


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """Where to connect and how; every field is one psycopg or libpq parameter.

    Raises:
        ValueError: one line for each field out of range, naming field, value and rule.

    """

    host: str
    port: int
    dbname: str
    user: str
    password_file: str
    sslmode: str = "verify-full"
    sslrootcert: str = ""
    load_balance_hosts: str = "random"
    application_name: str = "sluice"
    connect_timeout_seconds: int = 3
    tcp_user_timeout_ms: int = 5000
    keepalives_idle_seconds: int = 5
    keepalives_interval_seconds: int = 2
    keepalives_count: int = 3
    prepare_threshold: int | None = 5
    prepared_max: int = 100

    def __post_init__(self) -> None:
        _refuse(list(self._faults()))

    def _faults(self) -> Iterator[str]:
        least = {
            "port": 1,
            "connect_timeout_seconds": MINIMUM_CONNECT_TIMEOUT_SECONDS,
            "tcp_user_timeout_ms": 0,
            "keepalives_idle_seconds": 1,
            "keepalives_interval_seconds": 1,
            "keepalives_count": 1,
            "prepare_threshold": 0,
            "prepared_max": 0,
        }
        for name in ("host", "dbname", "user", "password_file"):
            if not getattr(self, name):
                yield f"database.{name} is empty"
        yield from _below(self, "database", least)
        if self.port > PORT_MAX:
            yield f"database.port={self.port} exceeds {PORT_MAX}"
        yield from self._unknown("sslmode", SSL_MODES)
        yield from self._unknown("load_balance_hosts", LOAD_BALANCE_HOSTS)
        if self.sslmode.startswith("verify-") and not self.sslrootcert:
            yield f"database.sslrootcert is empty; sslmode={self.sslmode} needs the CA's file"

    def _unknown(self, name: str, known: frozenset[str]) -> Iterator[str]:
        value = getattr(self, name)
        if value not in known:
            yield f"database.{name}={value!r} is unknown; use one of {', '.join(sorted(known))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many connections, how long to wait, when to check and when to try again.

    Raises:
        ValueError: one line for each field out of range, naming field, value and rule.

    """

    min_size: int = 2
    max_size: int = 16
    timeout_seconds: float = 2.0
    max_waiting: int = 64
    max_lifetime_seconds: float = 1800.0
    max_idle_seconds: float = 300.0
    reconnect_timeout_seconds: float = 10.0
    num_workers: int = 3
    check_idle_seconds: float = 5.0
    leak_threshold_seconds: float = 8.0
    retry_budget_seconds: float = 8.0
    retry_attempts_max: int = 3

    def __post_init__(self) -> None:
        _refuse(list(self._faults()))

    def _faults(self) -> Iterator[str]:
        least = dict.fromkeys((item.name for item in fields(self)), 0.1) | {
            "min_size": 0,
            "max_size": 1,
            "max_waiting": 1,  # zero means "no bound" to psycopg_pool
            "num_workers": 1,
            "check_idle_seconds": 0.0,
            "retry_budget_seconds": 0.0,
            "retry_attempts_max": 1,
        }
        yield from _below(self, "pool", least)
        yield from size_faults(self.min_size, self.max_size)


def size_faults(min_size: int, max_size: int) -> Iterator[str]:
    """Yield what is wrong with a pair of pool sizes; nothing when it is usable."""
    if min_size > max_size:
        yield (
            f"pool.min_size={min_size} exceeds max_size={max_size}; "
            "lower min_size or raise max_size"
        )
