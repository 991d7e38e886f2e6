"""What the figures of a page depend on: below its findings, folded up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest import constraints
from loadtest.report.parts import Section, Table
from loadtest.run_directory import RunDirectory


def section(directory: RunDirectory, options: Mapping[str, Any]) -> Section:
    """Return machine, versions, what is in force, and what the run was asked to do."""
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


def read(directory: RunDirectory, options: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return every group of constraints; kept as JSON, so that a later page says the same."""
    stored: dict[str, Mapping[str, str]] | None = directory.read("constraints")
    if stored is not None:
        return stored
    raw = directory.path / "constraints"
    found: dict[str, Mapping[str, str]] = {
        "Machine and tools": constraints.machine(raw),
        "Load generators": constraints.generators(),
        "This run": {name: str(value) for name, value in options.items()},
        "In force: the deployed stack": constraints.tiers(raw),
        "In force: the lab": constraints.tiers(raw, "lab-"),
        "Settings of the env file": constraints.settings(raw / "stack.env"),
    }
    directory.write("constraints", found)
    return found
