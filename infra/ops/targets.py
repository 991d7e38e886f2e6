"""Where the processes of a service are: one address each, behind one DNS name."""

import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_PARALLEL_MAX = 32


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One process: the container's name as Docker's DNS tells it, and its address.

    `host` is the name that its certificate is checked against.
    """

    name: str
    host: str
    address: str
    port: int

    def __str__(self) -> str:
        return self.name if self.name == self.address else f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one process said: a value, or why there is none."""

    target: Target
    value: T | None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the process answered."""
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
    # One target's failure, whatever it is, must not keep the others from being told.
    try:
        return Answer(target, work(target))
    except Exception as error:
        return Answer(target, None, first_line(error))


def first_line(error: BaseException) -> str:
    """Return an error's class when it says nothing, else its first line, at most 300 long."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _name(address: str) -> str:
    """Return the container's name; Docker answers `project-service-1.project_network`."""
    try:
        return socket.gethostbyaddr(address)[0].split(".", 1)[0]
    except OSError:
        return address
