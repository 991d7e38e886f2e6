"""The constraints of a run, as host/common.sh recorded them from the processes."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from infra.config import envfile
from infra.config.values import assign

Facts = dict[str, str]

PACKAGES = ("locust", "psycopg", "psycopg-pool", "plotly")
PGBOUNCER_KEYS = (
    "pool_mode",
    "max_client_conn",
    "default_pool_size",
    "max_prepared_statements",
    "query_wait_timeout",
    "client_tls_sslmode",
    "server_tls_sslmode",
)
DATABASE_KEYS = ("pool_size", "reserve_pool_size", "min_pool_size")
SETTING_GROUPS = ("POOL", "THREADS", "BATCH_TASKS", "REPLICAS", "CPUS", "MEMORY_MB", "MAX_CONN")


def machine(directory: Path) -> Facts:
    """Return machine, tool versions and load before the run."""
    facts = _pairs(directory / "machine.txt")
    if facts.get("memory_kb", "").isdecimal():
        facts["memory"] = f"{int(facts.pop('memory_kb')) / 2**20:.1f} GiB"
    return facts


def generators() -> Facts:
    """Return the versions of what makes the load."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    pgbench = subprocess.run(  # a constant command
        ["pgbench", "--version"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "python": platform.python_version(),
        "pgbench": pgbench.stdout.split(" ")[-1].strip(" )\n"),
    } | versions


def tiers(directory: Path, prefix: str = "") -> Facts:
    """Return what PostgreSQL and PgBouncer themselves say is in force."""
    facts = {
        f"postgres {row['name']}": row["setting"] for row in _rows(directory, f"{prefix}postgres")
    }
    facts["pgbouncer version"] = _text(directory / f"{prefix}pgbouncer-version.txt")
    config = {row["key"]: row["value"] for row in _rows(directory, f"{prefix}pgbouncer")}
    facts |= {f"pgbouncer {key}": config[key] for key in PGBOUNCER_KEYS if key in config}
    for row in _rows(directory, f"{prefix}databases"):
        if row["name"] != "pgbouncer":
            sizes = ", ".join(f"{key} {row[key]}" for key in DATABASE_KEYS if key in row)
            facts[f"pgbouncer entry {row['name']}"] = sizes
    return {name: value for name, value in facts.items() if value}


def settings(env_file: Path) -> Facts:
    """Return the sizes that the env file asks for; the tiers' own answers rank above it."""
    if not env_file.exists():
        return {}
    values = assign(envfile.read(env_file, name=env_file.name)).values.as_dict()
    return {
        name: str(value)
        for name, value in values.items()
        if any(part in name for part in SETTING_GROUPS)
    }


def _pairs(path: Path) -> Facts:
    lines = (line.partition("=") for line in _text(path).splitlines())
    return {name: value for name, separator, value in lines if separator}


def _rows(directory: Path, name: str) -> list[Facts]:
    return list(csv.DictReader(_text(directory / f"{name}.csv").splitlines()))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
