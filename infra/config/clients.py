"""The clients of the path: the project's own services, and applications with a file of their own.

`clients/NAME.env` beside the env file makes an application a client: its role, its database and
the owner of that, its entry in PgBouncer, its part of the budget. Its settings are among the
Values under the file and their name, `clients/billing.env:POOL_SIZE`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from infra.config import envfile, names
from infra.config.envfile import Assigned
from infra.config.faults import Fault
from infra.config.names import Client
from infra.config.settings import Change, Derivation, Form, Setting, Tier, Value, Values, share

DIRECTORY: Final = "clients"
_KEY: Final = re.compile(rf"{DIRECTORY}/([a-z][a-z0-9_]*)\.env:([A-Z_]+)\Z")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_NAME_RULE: Final = "a small letter, then at most 30 small letters, digits and _"
# Words of the servers' hba files, of PostgreSQL and of PgBouncer; then what the path itself uses.
_WORDS: Final = ("all", "none", "public", "replication", "samegroup", "samerole", "sameuser")
_SERVERS: Final = ("pgbouncer", "postgres", "template0", "template1")
_PREFIXES: Final = ("pg_", "sluice_", f"{names.DATABASE}_")
_TRANSACTION: Final = "transaction"
SESSION: Final = "session"


@dataclass(frozen=True, slots=True)
class Database:
    """A database of PostgreSQL: its owner, and the roles of its clients."""

    name: str
    owner: str
    users: tuple[str, ...]

    @property
    def is_own(self) -> bool:
        """Return True for the database of the project's own services, which grant by themselves."""
        return self.name == names.DATABASE


@dataclass(frozen=True, slots=True)
class Place:
    """Where a role can log in: a database of PostgreSQL, an entry of PgBouncer or none."""

    database: str
    entry: str


def every(values: Values) -> tuple[Client, ...]:
    """Return the services, then the applications in the order of their names."""
    return (*names.SERVICES, *applications(values))


def applications(values: Values) -> tuple[Client, ...]:
    """Return the clients that have a file of their own, in the order of their names."""
    return tuple(_client(name, str(values[key(name, "DATABASE")])) for name in given(values))


def given(*values: Values) -> tuple[str, ...]:
    """Return the names of the files that any of these values have settings of, in order."""
    found = {match[1] for one in values for name in one.as_dict() if (match := _KEY.match(name))}
    return tuple(sorted(found))


def keys(*values: Values) -> tuple[str, ...]:
    """Return the key of every setting of the files that any of these values have settings of."""
    return tuple(one.name for name in given(*values) for one in settings(name).values())


def key(name: str, setting: str) -> str:
    """Return the name under which Values hold a setting of a client's file."""
    return f"{file(name)}:{setting}"


def file(name: str) -> str:
    """Return the file of a client, from the directory of the env file."""
    return f"{DIRECTORY}/{name}.env"


def find(name: str) -> Setting | None:
    """Return the setting of a key; None where it is no key of a client's setting."""
    match = _KEY.match(name)
    return settings(match[1]).get(match[2]) if match else None


def whole(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values without those of clients that do not have all of theirs."""
    left_out: set[str] = set()
    for name in given(Values(dict(values))):
        own = {setting.name for setting in settings(name).values()}
        if own - values.keys():
            left_out |= own
    return {name: value for name, value in values.items() if name not in left_out}


def shortened(keys: Iterable[str]) -> tuple[str, ...]:
    """Return names of settings, with the file in place of the keys where all of it are there."""
    present = tuple(keys)
    matches = {one: match[1] for one in present if (match := _KEY.match(one))}
    complete = {
        name
        for name in set(matches.values())
        if all(setting.name in matches for setting in settings(name).values())
    }
    shown = (file(matches[one]) if matches.get(one) in complete else one for one in present)
    return tuple(dict.fromkeys(shown))


def databases(values: Values) -> tuple[Database, ...]:
    """Return every database that a client uses, the services' first."""
    clients = every(values)
    owners = {client.database: client.owner for client in clients}
    return tuple(
        Database(name, owner, tuple(one.role for one in clients if one.database == name))
        for name, owner in owners.items()
    )


def logins(values: Values) -> dict[str, Place]:
    """Return where each role that has a password can log in: the owners first, by role."""
    return {
        **{one.owner: Place(one.name, "") for one in databases(values)},
        **{client.role: Place(client.database, client.entry) for client in every(values)},
        names.MONITOR: Place(names.DATABASE, names.MONITOR_ENTRY),
        names.OPERATOR: Place(names.DATABASE, "pgbouncer"),
        **(
            {names.REPLICATION: Place("postgres", "")}
            if values.integer("POSTGRES_INSTANCES") > 1
            else {}
        ),
    }


def read(env_file: Path, shown: str) -> Assigned:
    """Return what the files beside an env file give, without those that have a fault.

    `shown` is how faults call the env file.
    """
    values, faults = Values({}), list[Fault]()
    directory = Path(shown).parent
    if directory.name == "presets":
        directory = directory.parent
    try:
        found = sorted((env_file.parent / DIRECTORY).iterdir())
    except FileNotFoundError:
        found = []
    except OSError as error:
        # Not no clients: those that are would be retired.
        place = str(directory / DIRECTORY)
        return Assigned(values, (Fault(place, f"cannot be listed: {error.strerror}"),))
    for path in (one for one in found if one.suffix == ".env"):
        place = str(directory / DIRECTORY / path.name)
        if problem := name_problem(path.stem):
            faults.append(Fault(place, problem))
            continue
        assigned = envfile.assign(envfile.read(path, name=place), settings(path.stem))
        faults += assigned.faults
        if not assigned.faults:
            values = values.joined(assigned.values)
    return Assigned(values, tuple(faults))


def name_problem(name: str) -> str:
    """Return why a name cannot be a client's, as a sentence without its beginning; else empty."""
    if not _NAME.match(name):
        return f"{name[:40]!r} is no name of a client; write {_NAME_RULE}"
    if name in (*_WORDS, *_SERVERS, *_reserved()):
        return f"{name!r} is reserved; choose another name"
    if name.endswith(names.STANDBY_SUFFIX):
        return f"names that end with {names.STANDBY_SUFFIX} are reserved; choose another"
    prefix = next((one for one in _PREFIXES if name.startswith(one)), "")
    return f"names that begin with {prefix} are reserved; choose another" if prefix else ""


def _reserved() -> Iterator[str]:
    yield names.DATABASE
    for service in names.SERVICES:
        yield from (service.service, service.entry, service.role)


def _client(name: str, database: str) -> Client:
    return Client(
        role=name,
        entry=name,
        database=database,
        owner=f"{database}_owner",
        server_pool_size=key(name, "POOL_SIZE"),
        server_reserve_size=key(name, "RESERVE_POOL_SIZE"),
        server_min_pool_size=key(name, "MIN_POOL_SIZE"),
        lock_timeout=key(name, "LOCK_TIMEOUT_MS"),
        statement_timeout=key(name, "STATEMENT_TIMEOUT_MS"),
        idle_in_transaction_timeout=key(name, "IDLE_IN_TRANSACTION_TIMEOUT_MS"),
        transaction_timeout=key(name, "TRANSACTION_TIMEOUT_MS"),
        query_timeout=key(name, "QUERY_TIMEOUT_SECONDS"),
        pool_mode=key(name, "POOL_MODE"),
        query_wait_timeout=key(name, "QUERY_WAIT_TIMEOUT_SECONDS"),
        max_client_connections=key(name, "MAX_CLIENT_CONNECTIONS"),
    )


def _parse_name(text: str) -> str:
    if not _NAME.match(text):
        raise ValueError("is no name of a database")
    if text in (*_WORDS, *_SERVERS) or text.startswith(("pg_", "sluice_")):
        raise ValueError("is reserved")
    return text


def settings(name: str) -> dict[str, Setting]:
    """Return the settings of a client's file, by the names they have in it."""
    return {one.name.partition(":")[2]: one for one in _settings(name)}


def _settings(name: str) -> Iterator[Setting]:
    yield Setting(
        name=key(name, "DATABASE"),
        tier=Tier.POSTGRES,
        meaning="Its database; it is made, and belongs to the role DATABASE_owner.",
        unit="name",
        form=Form(_NAME_RULE, _parse_name),
        default=name,
        change=Change.LIVE,
    )
    yield _number(name, "POOL_SIZE", "Server connections of each replica.", 2, 1, 1000)
    yield _number(
        name, "RESERVE_POOL_SIZE", "Server connections more, for clients that wait.", 0, 0, 1000
    )
    yield _number(
        name,
        "MIN_POOL_SIZE",
        "Server connections that each replica keeps open while it has clients.",
        1,
        0,
        1000,
        derivation=Derivation(
            (key(name, "POOL_SIZE"),),
            "1, or POOL_SIZE if smaller",
            lambda values: min(values.number(key(name, "POOL_SIZE")), Decimal(1)),
        ),
    )
    yield _number(
        name,
        "MAX_CLIENT_CONNECTIONS",
        "Client connections of all its processes; a replica refuses more.",
        50,
        1,
        100_000,
    )
    yield _number(
        name, "OWNER_CONNECTIONS", "Sessions of its owner, which migrates: direct.", 2, 1, 100
    )
    yield Setting(
        name=key(name, "POOL_MODE"),
        tier=Tier.PGBOUNCER,
        meaning="session: each of its connections holds a server connection until it ends.",
        unit="mode",
        choices=(_TRANSACTION, SESSION),
        default=_TRANSACTION,
        change=Change.LIVE,
    )
    yield _number(
        name,
        "DEADLINE_SECONDS",
        "What one transaction may take; the limits follow it.",
        10,
        1,
        3600,
    )
    deadline = key(name, "DEADLINE_SECONDS")
    milliseconds = {
        "LOCK_TIMEOUT_MS": "0.1",
        "STATEMENT_TIMEOUT_MS": "0.3",
        "IDLE_IN_TRANSACTION_TIMEOUT_MS": "0.5",
        "TRANSACTION_TIMEOUT_MS": "0.6",
    }
    for setting, factor in milliseconds.items():
        meaning = f"{setting.removesuffix('_MS').lower()} of its role."
        derivation = share(factor, deadline, units=1000)
        yield _number(name, setting, meaning, 1, 1, 3_600_000, derivation=derivation)
    yield _number(
        name,
        "QUERY_TIMEOUT_SECONDS",
        "query_timeout of its user in PgBouncer.",
        1,
        1,
        3600,
        derivation=share("0.8", deadline),
    )
    yield _number(
        name,
        "QUERY_WAIT_TIMEOUT_SECONDS",
        "How long it may wait for a server connection; 0: as the stack's own.",
        0,
        0,
        3600,
    )


def _number(
    name: str,
    setting: str,
    meaning: str,
    default: int,
    minimum: int,
    maximum: int,
    *,
    derivation: Derivation | None = None,
) -> Setting:
    unit = "connections"
    for ending, other in (("_MS", "ms"), ("_SECONDS", "seconds")):
        unit = other if setting.endswith(ending) else unit
    return Setting(
        name=key(name, setting),
        tier=Tier.POSTGRES if setting.endswith("_MS") else Tier.PGBOUNCER,
        meaning=meaning,
        unit=unit,
        default=default,
        minimum=minimum,
        maximum=maximum,
        change=Change.LIVE,
        derivation=derivation,
    )
