"""The login roles of the path: all that PostgreSQL holds of each.

roles.sql is made of it, and what the server holds is compared with it: attributes, memberships,
settings and password, where whatever else it holds was set outside.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from infra.config import clients, names, sizing
from infra.config.names import Client
from infra.config.settings import Values

TIMEOUTS: Final = (
    "lock_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
)
# As PostgreSQL names them, and the roles that a role is a member of.
ATTRIBUTES: Final = (
    *("login", "superuser", "createrole", "createdb", "replication", "bypassrls", "inherit"),
    *("valid_until", "member_of"),
)
# Their errors are reported by the client that made them, and messages of PostgreSQL can hold
# values: of a session only what the server says by itself reaches its log.
_LOG_LEVEL: Final = "log"


@dataclass(frozen=True, slots=True)
class Membership:
    """A role that a login role is a member of, with the options of the grant."""

    role: str
    admin: bool = False
    inherit: bool = True
    set: bool = True

    @property
    def options(self) -> str:
        """Return the options as GRANT ... WITH has them."""
        return f"ADMIN {self.admin}, INHERIT {self.inherit}, SET {self.set}".upper()

    def __str__(self) -> str:
        """Return the form in which memberships are compared: what is not the default is named."""
        words = {"admin": self.admin, "noinherit": not self.inherit, "noset": not self.set}
        return " ".join([self.role, *(word for word, named in words.items() if named)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One login role as roles.sql makes it; the verifier is a secret's digest.

    `settings` are those of ALTER ROLE ... SET, values as PostgreSQL stores them.
    """

    name: str
    verifier: str = field(repr=False)
    connection_limit: int
    settings: Mapping[str, str]
    createrole: bool = False
    replication: bool = False
    member_of: tuple[Membership, ...] = ()

    @property
    def attributes(self) -> dict[str, str]:
        """Return what the server must hold beside limit, settings and password."""
        return dict.fromkeys(ATTRIBUTES, "off") | {
            "login": "on",
            "inherit": "on",
            "createrole": "on" if self.createrole else "off",
            "replication": "on" if self.replication else "off",
            "valid_until": "infinity",
            "member_of": ", ".join(sorted(map(str, self.member_of))),
        }


def digest(verifier: str) -> str:
    """Return what the server's own function gives for a verifier: nothing to log in with."""
    return hashlib.sha256(verifier.encode("ascii")).hexdigest()


def no_verifiers(values: Values) -> dict[str, str]:
    """Return what stands in for verifiers, for whoever needs all of a role but its secret."""
    return dict.fromkeys(clients.logins(values), "")


def login_roles(values: Values, verifiers: Mapping[str, str]) -> tuple[Role, ...]:
    """Return every login role, the owners first."""
    limits, settings, member_of = sizing.role_limits(values), _settings(values), _members(values)
    return tuple(
        Role(
            name=name,
            verifier=verifiers[name],
            connection_limit=limits[name],
            settings=settings[name] | {"log_min_messages": _LOG_LEVEL},
            createrole=name == names.OPERATOR,
            replication=name == names.REPLICATION,
            member_of=member_of.get(name, ()),
        )
        for name in settings
    )


def _settings(values: Values) -> dict[str, dict[str, str]]:
    # Migrations and loads run for minutes but must not queue behind a lock for long: everybody
    # else would queue behind them. A large index is sorted on disk, and migrations run alone.
    owner = _timeouts(10_000, 0, 60_000, 0) | {"temp_file_limit": "-1"}
    found = {database.owner: owner for database in clients.databases(values)}
    found |= {client.role: _of_client(values, client) for client in clients.every(values)}
    # It reads by key, a whole table never: that plan comes of statistics that are behind.
    found[names.WORKER.role] |= {"enable_seqscan": "off"}
    # `make doctor` looks there for SET, LISTEN and the like. Of these roles only: what the operator
    # and the superuser send has verifiers in it, which would be kept with the statement.
    tracked = {"pg_stat_statements.track_utility": "on"}
    for client in clients.every(values):
        found[client.role] |= tracked
    # A health check that takes longer has failed. Operator commands look and signal; CHECKPOINT
    # is the longest of them.
    found |= {
        names.MONITOR: _timeouts(500, 2000, 3000, 5000) | tracked,
        names.OPERATOR: _timeouts(2000, 60_000, 70_000, 80_000),
    }
    if sizing.is_replicated(values):
        found[names.REPLICATION] = _timeouts(2000, 0, 0, 0)
    return found


def _members(values: Values) -> dict[str, tuple[Membership, ...]]:
    """Return the roles that the monitor and the operator are members of.

    The monitor reads statistics; the operator also signals sessions, and changes limits, timeouts
    and passwords of the others.
    """
    reads = (Membership("pg_monitor"), Membership("pg_use_reserved_connections"))
    signals = (Membership("pg_signal_backend"), Membership("pg_checkpoint"))
    others = tuple(
        Membership(name, admin=True, inherit=False, set=False)
        for name in clients.logins(values)
        if name != names.OPERATOR
    )
    return {names.MONITOR: reads, names.OPERATOR: (*reads, *signals, *others)}


def _of_client(values: Values, client: Client) -> dict[str, str]:
    return _timeouts(
        values.integer(client.lock_timeout),
        values.integer(client.statement_timeout),
        values.integer(client.idle_in_transaction_timeout),
        values.integer(client.transaction_timeout),
    )


def _timeouts(*milliseconds: int) -> dict[str, str]:
    """Return the settings of these limits, in the order of TIMEOUTS; 0 is none."""
    return {name: f"{ms}ms" for name, ms in zip(TIMEOUTS, milliseconds, strict=True)}
