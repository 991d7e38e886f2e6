"""A stack of three replicas by its settings, and what a document says of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infra.ops.clients.processes import OpsSettings, Target

POOLERS = tuple(Target(f"pgbouncer-{n}", "pgbouncer", f"192.0.2.{n}", 6432) for n in (1, 2, 3))
LIMITS = {"drain_seconds": 1, "max_seconds": 2, "query_wait_timeout_seconds": 3}
SETTINGS = OpsSettings(
    {
        "postgres": {"host": "postgres.invalid", "port": 5432, "instances": ["postgres"]},
        "pgbouncer": {"replicas": len(POOLERS), "server_hop": "socket"},
        "pause": LIMITS | {"dead_man_seconds": 4},
    }
)
# Runs a command as for a program; returns its document.
Run = Callable[..., dict[str, Any]]


def processes(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each process with what was done to it."""
    return [(one["process"], one["done"]) for one in document["processes"]]
