"""The processes of the stack: where they are, all of them asked at once, each call bounded in time.

ops.json says under which name a tier is found and as whom to log in. A name is that of a service:
each of its containers has an address of its own behind it.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from infra.config import catalogue, documents
from infra.ops.outcome import RefusedError

T = TypeVar("T")
_PARALLEL_MAX = 32


class OtherVersionError(RefusedError):
    """ops.json is of another version, which compiled less than this one reads."""


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """The parsed ops.json."""

    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read ops.json.

        Raises:
            OSError: it cannot be read.
            OtherVersionError: it lacks what this version compiles into it.
            ValueError: it is not JSON.

        """
        values = json.loads(path.read_text(encoding="utf-8"))
        if lacking := next(_lacking(documents.ops(catalogue.defaults()), values), ""):
            raise OtherVersionError(
                f"{path}: has no {lacking}: another version of Sluice compiled it; "
                "compile it with this one: make up"
            )
        return cls(values)

    def serving(self, pgbouncers: int) -> Self:
        """Return them with as many PgBouncer replicas as serve now, whatever was compiled."""
        pgbouncer = self.values["pgbouncer"] | {"replicas": pgbouncers}
        return replace(self, values=self.values | {"pgbouncer": pgbouncer})

    def conninfo(self, user: str, *, application_name: str) -> str:
        """Return the connection string straight to PostgreSQL; it contains the password.

        `user` is a key of `users` in ops.json: operator or monitor.
        """
        target = self.values["postgres"]
        address = {"host": target["host"], "port": target["port"], "dbname": target["dbname"]}
        return make_conninfo(**address, **self._login(user, application_name))

    def admin_conninfo(self, address: str, *, application_name: str, user: str = "operator") -> str:
        """Return the connection string of one PgBouncer's admin console; with the password.

        The certificate is checked against the service's name, whatever the address.
        """
        target = self.values["pgbouncer"]
        return make_conninfo(
            host=target["host"],
            hostaddr=address,
            port=target["port"],
            dbname=target["admin_dbname"],
            **self._login(user, application_name),
        )

    def _login(self, user: str, application_name: str) -> dict[str, Any]:
        login = self.values["users"][user]
        return {
            "user": login["name"],
            "password": Path(login["password_file"]).read_text(encoding="ascii"),
            "sslmode": self.values["sslmode"],
            "sslrootcert": self.values["sslrootcert"],
            "connect_timeout": self.values["connect_timeout_seconds"],
            "application_name": application_name,
        }


def _lacking(wanted: Mapping[str, Any], found: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of `wanted` that are not in `found`."""
    for name, value in wanted.items():
        if not isinstance(found, dict) or name not in found:
            yield f"{prefix}{name}"
        elif isinstance(value, dict):
            yield from _lacking(value, found[name], f"{prefix}{name}.")


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One process: the container's name as Docker's DNS has it, and its address.

    Where a container has several, ` process 2` and so on follows the name. `host` is the name
    that its certificate is checked against.
    """

    name: str
    host: str
    address: str
    port: int

    @property
    def container(self) -> str:
        """The name of its container; no such name has a space."""
        return self.name.partition(" ")[0]

    def __str__(self) -> str:
        return self.name if self.name == self.address else f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one process said: a value, or why there is none, and the exception that says so."""

    target: Target
    value: T | None
    error: str = ""
    raised: Exception | None = None

    @property
    def ok(self) -> bool:
        """Return True if the process answered."""
        return not self.error

    def get(self) -> T:
        """Return the value of an answer that is there."""
        if self.error or self.value is None:
            raise LookupError(f"{self.target}: {self.error or 'no answer'}")
        return self.value


def resolve(host: str, port: int) -> tuple[Target, ...]:
    """Return every process behind `host`, by name; empty when the name is not known.

    A stopped container has no address any more; a frozen one still has.
    """
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror:
        return ()
    addresses = {str(entry[4][0]) for entry in found}
    # A process that is on several networks answers on any of its addresses.
    by_name = {_name(address): address for address in sorted(addresses, reverse=True)}
    return tuple(sorted(Target(name, host, by_name[name], port) for name in by_name))


def everywhere(targets: Iterable[Target], work: Callable[[Target], T]) -> tuple[Answer[T], ...]:
    """Run `work` on every target at once; an exception becomes that target's error."""
    chosen = tuple(targets)
    if not chosen:
        return ()
    with ThreadPoolExecutor(min(len(chosen), _PARALLEL_MAX)) as pool:
        return tuple(pool.map(lambda target: _answer(target, work), chosen))


def _answer(target: Target, work: Callable[[Target], T]) -> Answer[T]:
    # One target's failure, whatever it is, must not keep the others from being asked.
    try:
        return Answer(target, work(target))
    except Exception as error:
        return Answer(target, None, first_line(error), error)


def first_line(error: BaseException) -> str:
    """Return an error's class when it says nothing, else its first line, at most 300 long."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _name(address: str) -> str:
    """Return the container's name; Docker answers `project-service-1.project_network`.

    Of a task of Docker Swarm, `project_service.1.TASK.project_network`, it is what comes before
    the task.
    """
    try:
        name = socket.gethostbyaddr(address)[0]
    except OSError:
        return address
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 3 and parts[1].isdigit() else parts[0]


class _Closes(Protocol):
    def close(self) -> None:
        """End the session."""


S = TypeVar("S", bound=_Closes)


class Kept(Generic[S]):
    """Sessions that outlive their use, by what they are with; one that has failed is closed.

    Different ones may be used at once, the same one may not.
    """

    def __init__(self) -> None:
        self._idle: dict[object, S] = {}

    @contextmanager
    def session(self, peer: object, connect: Callable[[], S]) -> Iterator[S]:
        """Use the session with this peer for the block; make one where there is none."""
        session = self._idle.pop(peer, None) or connect()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._idle[peer] = session

    def close(self, *, but: Iterable[object] = ()) -> None:
        """Close the sessions that are not in use, but those with these peers."""
        for peer in self._idle.keys() - set(but):
            self._idle.pop(peer).close()


class TimedOutError(Exception):
    """The peer did not answer in time; the connection is of no use any more."""


@contextmanager
def bounded(connection: psycopg.Connection[Any], seconds: float, what: str) -> Iterator[None]:
    """End the socket of `connection` when the block takes longer than `seconds`.

    Raises:
        TimedOutError: in place of the driver's error, when that happened.

    """
    expired = threading.Event()
    timer = threading.Timer(seconds, _cutter(connection, expired))
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if expired.is_set():
            raise TimedOutError(f"no answer to {what} within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def _cutter(connection: psycopg.Connection[Any], expired: threading.Event) -> Callable[[], None]:
    def cut() -> None:
        expired.set()
        # A dup: the driver closes its own descriptor, whose number may then be reused.
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as peer,
        ):
            peer.shutdown(socket.SHUT_RDWR)

    return cut
