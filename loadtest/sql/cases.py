"""Which pgbench runs there are, and why some combinations are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PATHS = ("pgbouncer", "direct")
DEFAULT_CLIENTS = (8, 64, 380, 1000, 5000, 10_000)
# Of every kind but the plain read, enough to see the trend.
SMALL_CLIENTS = (8, 64)
WRITE_CLIENTS = (8, 64, 380)
# One thread each: a thread that prepares waits for a server connection that its own other
# clients may hold, and then waits for ever.
PREPARED_CLIENTS_MAX = 64
THREADS_MAX = 2
# pgbench, libraries and log files.
OPEN_FILES_SLACK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One pgbench run; `connect` opens a connection for every transaction."""

    path: str
    mode: str
    protocol: str
    clients: int
    connect: bool = False

    @property
    def kind(self) -> str:
        """Return what the case has in common with its other client counts."""
        return f"{self.mode} {self.protocol}{' connecting' if self.connect else ''}"

    @property
    def name(self) -> str:
        """Return the whole case in words."""
        return f"{self.kind}, {self.clients} clients, {self.path}"

    @property
    def threads(self) -> int:
        """Return pgbench's threads: see PREPARED_CLIENTS_MAX for the prepared protocol."""
        return self.clients if self.protocol == "prepared" else min(THREADS_MAX, self.clients)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self) | {"kind": self.kind, "name": self.name}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A case that is not run, and the reason."""

    case: Case
    reason: str


def cases(clients: Sequence[int], only: str = "") -> Iterator[Case]:
    """Yield every case for these client counts, both paths next to each other.

    `only` keeps the cases whose kind contains it.
    """
    for kind in _kinds(clients):
        for path in PATHS:
            case = Case(path=path, **kind)
            if only in case.kind:
                yield case


def reason_against(case: Case, *, direct_max: int, open_files: int) -> str:
    """Return why a case cannot be run here; empty when it can."""
    if case.path == "direct" and case.clients > direct_max:
        return f"direct is measured up to {direct_max} connections (DIRECT_CLIENTS_MAX)"
    if case.clients + OPEN_FILES_SLACK > open_files:
        return f"{case.clients} clients need more than the {open_files} open files allowed"
    if case.protocol == "prepared" and case.clients > PREPARED_CLIENTS_MAX:
        return f"prepared needs a thread per client; the most here is {PREPARED_CLIENTS_MAX}"
    return ""


def _kinds(clients: Sequence[int]) -> Iterator[dict[str, Any]]:
    for count in clients:
        yield {"mode": "read", "protocol": "extended", "clients": count}
    for protocol in ("simple", "prepared"):
        for count in (one for one in clients if one in SMALL_CLIENTS):
            yield {"mode": "read", "protocol": protocol, "clients": count}
    for count in (one for one in clients if one in WRITE_CLIENTS):
        yield {"mode": "write", "protocol": "extended", "clients": count}
    for count in (one for one in clients if one in SMALL_CLIENTS):
        yield {"mode": "read", "protocol": "simple", "clients": count, "connect": True}
