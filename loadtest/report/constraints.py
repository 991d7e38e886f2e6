"""What the figures of a page depend on: below its findings, folded up.

host/common.sh recorded it from the machine and from the processes.
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.config import envfile
from infra.config.envfile import assign
from loadtest.report.parts import Section, Table
from loadtest.run_directory import RunDirectory

Facts = dict[str, str]

ENV_FILE = "Settings of the env file"
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
DATABASE_KEYS = ("host", "pool_size", "reserve_pool_size", "min_pool_size")
SETTING_GROUPS = ("POOL", "THREADS", "BATCH_TASKS", "REPLICAS", "CPUS", "MEMORY_MB", "MAX_CONN")


def section(directory: RunDirectory, options: Mapping[str, Any]) -> Section:
    """Return machine, versions, running configuration, and what the run was asked to do."""
    facts = read(directory, options)
    tables = [
        Table(title, ("what", "value"), list(pairs.items())) for title, pairs in facts.items()
    ]
    return Section(
        "Constraints",
        "Clients, pooler and server share the processors of one machine: compare ratios within "
        "this run, not its absolute figures with those of another machine.",
        [table for table in tables if table.rows],
        facts=True,
    )


def read(directory: RunDirectory, options: Mapping[str, Any]) -> dict[str, Facts]:
    """Return every group of constraints; kept as JSON, so that a later page says the same."""
    stored: dict[str, Facts] | None = directory.read("constraints")
    if stored is not None:
        return stored
    raw = directory.path / "constraints"
    found: dict[str, Facts] = {
        "Machine and tools": _machine(raw),
        "Load generators": _generators(),
        "This run": {name: str(value) for name, value in options.items()},
        "Running configuration: the deployed stack": _tiers(raw),
        "Running configuration: the lab": _tiers(raw, "lab-"),
        ENV_FILE: _settings(raw / "stack.env"),
    }
    directory.write("constraints", found)
    return found


def _machine(directory: Path) -> Facts:
    """Return machine, tool versions and load before the run."""
    facts = _pairs(directory / "machine.txt")
    if facts.get("memory_kb", "").isdecimal():
        facts["memory"] = f"{int(facts.pop('memory_kb')) / 2**20:.1f} GiB"
    return facts


def _generators() -> Facts:
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


def _tiers(directory: Path, prefix: str = "") -> Facts:
    """Return what PostgreSQL and PgBouncer themselves say of their running configuration."""
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


def _settings(env_file: Path) -> Facts:
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
