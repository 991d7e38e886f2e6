"""Connections as the worker's: SCRAM over TLS with the server's name checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from psycopg.pq import Conninfo

SETTINGS = Path("/etc/sluice")
# The names are the same in the lab and in the deployed stack; the network says which it is.
PORTS = {"postgres": 5432, "pgbouncer": 6432}
CONNECT_TIMEOUT_SECONDS = 10


def arguments(target: str, database: str = "") -> dict[str, Any]:
    """Return libpq's parameters for a target, direct or pgbouncer.

    Without a database it is the worker's own: `risk`, or its entry `risk_batch`.
    """
    host, entry = ("postgres", "risk") if target == "direct" else ("pgbouncer", "risk_batch")
    return {
        "host": host,
        "port": PORTS[host],
        "dbname": database or entry,
        "user": "risk_worker",
        "password": (SETTINGS / "worker.password").read_text(encoding="utf-8").strip(),
        "sslmode": "verify-full",
        "sslrootcert": str(SETTINGS / "ca.crt"),
        "gssencmode": "disable",
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "sluice-loadtest",
    }


def environment(parameters: dict[str, Any]) -> dict[str, str]:
    """Return libpq's parameters as environment variables of a program that it is in."""
    names = {one.keyword: one.envvar for one in Conninfo.get_defaults() if one.envvar}
    return {"PATH": os.environ.get("PATH", "")} | {
        names[name.encode()].decode(): str(value) for name, value in parameters.items()
    }
