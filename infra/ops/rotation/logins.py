"""Who can log in, where, with which password: tried on the processes themselves."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from infra.config import names
from infra.config.clients import Login
from infra.ops.clients.processes import OpsSettings, Target, bounded, everywhere, first_line
from infra.ops.outcome import FailedError
from infra.ops.waiting import gone, wait_until

T = TypeVar("T")
# What both servers say when, and only when, the password is wrong.
REFUSALS: Final = ("password authentication failed", "SASL authentication failed")
_SECONDS: Final = 5.0
_TEACH_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.1


def with_operator_password(settings: OpsSettings, file: Path) -> OpsSettings:
    """Return settings by which the operator logs in with the password in another file."""
    users = settings.values["users"]
    operator = users["operator"] | {"password_file": str(file)}
    return replace(settings, values=settings.values | {"users": users | {"operator": operator}})


def first_that_works(candidates: Iterable[OpsSettings], connect: Callable[[OpsSettings], T]) -> T:
    """Return what `connect` returns with the first settings whose password is accepted.

    Raises:
        psycopg.OperationalError: none is, or the process cannot be reached.

    """
    refusal: psycopg.OperationalError | None = None
    for settings in candidates:
        try:
            return connect(settings)
        except psycopg.OperationalError as error:
            if not is_refusal(error):
                raise
            refusal = error
        except FileNotFoundError:
            continue
    raise refusal or psycopg.OperationalError("there is no password to log in with")


def is_refusal(error: psycopg.Error) -> bool:
    """Return True if a login failed because of its password."""
    return any(text in str(error) for text in REFUSALS)


def teach(
    settings: OpsSettings,
    replicas: tuple[Target, ...],
    passwords: dict[str, str],
    places: Mapping[str, Login],
) -> None:
    """Log every pooled role in on every replica, each where it can.

    PgBouncer passes a client's SCRAM key on to PostgreSQL, and learns it when the client
    logs in: until then its new server connections would still use the old key.

    Raises:
        FailedError: a login was refused or not answered; names replica and role.

    """

    def log_in(target: Target) -> None:
        for role, place in places.items():
            if place.entry and role != names.OPERATOR:
                conninfo = _pooled(settings, target, place.entry, role, passwords[role])
                _log_in_soon(conninfo)

    failed = [answer for answer in everywhere(replicas, log_in) if not answer.ok]
    if failed:
        raise FailedError("; ".join(f"{answer.target}: {answer.error}" for answer in failed))


def faults(
    settings: OpsSettings,
    replicas: tuple[Target, ...],
    passwords: dict[str, str],
    places: Mapping[str, Login],
    *,
    accepted: bool,
) -> list[str]:
    """Return a line for each place where a password is not accepted, or not refused, as wanted."""
    tries = [
        (f"postgres: {role}", _direct(settings, places[role].database, role, password))
        for role, password in passwords.items()
    ] + [
        (f"{target.name}: {role}", _pooled(settings, target, places[role].entry, role, password))
        for target in replicas
        for role, password in passwords.items()
        if places[role].entry
    ]
    found = (_fault(conninfo, accepted=accepted) for _, conninfo in tries)
    return [f"{place}: {fault}" for (place, _), fault in zip(tries, found, strict=True) if fault]


def _fault(conninfo: str, *, accepted: bool) -> str:
    try:
        _log_in(conninfo)
    except psycopg.OperationalError as error:
        expected = not accepted and is_refusal(error)
        return "" if expected else first_line(error)
    return "" if accepted else "the old password is still accepted"


def _log_in_soon(conninfo: str) -> None:
    """Log in, again after a server login with the old key has failed in between."""

    def refusal() -> psycopg.OperationalError | None:
        try:
            _log_in(conninfo)
        except psycopg.OperationalError as error:
            return error
        return None

    if error := wait_until(refusal, gone, seconds=_TEACH_SECONDS, every=_AGAIN_SECONDS):
        raise error


def _log_in(conninfo: str) -> None:
    with (
        psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection,
        bounded(connection, _SECONDS, "a login"),
    ):
        pass


def _direct(settings: OpsSettings, database: str, role: str, password: str) -> str:
    return make_conninfo(
        settings.conninfo("operator", application_name="sluice-ops-login"),
        dbname=database,
        user=role,
        password=password,
    )


def _pooled(settings: OpsSettings, target: Target, entry: str, role: str, password: str) -> str:
    return make_conninfo(
        settings.admin_conninfo(target.address, application_name="sluice-ops-login"),
        dbname=entry,
        user=role,
        password=password,
    )
