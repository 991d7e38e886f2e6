"""docs/results.md: the latest run of every command as text, constraints first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtest.incident import summary as incident
from loadtest.report import (
    compare_part,
    constraints_part,
    isolation_part,
    load_part,
    sql_part,
    tune_part,
)
from loadtest.report.page import TITLES, read
from loadtest.report.parts import Table
from loadtest.run_directory import RunDirectory, all_runs
from loadtest.samples import Series, read_samples
from loadtest.sql import summary as sql

COMMANDS = ("compare", "load-sql", "isolation", "tune", "load", "soak")
HEAD = """# Measured

One dated run of every load test, written by `make results` from `loadtest/results/`; what each
figure means is in [loadtest/README.md](../loadtest/README.md). Everything ran on one machine:
compare ratios within a run, not absolute figures with another machine's.
"""


def render(results: Path) -> str:
    """Return the whole page from the latest run of each command that has a result."""
    parts = [HEAD]
    for command in COMMANDS:
        run = _latest(results, command)
        if run is None:
            parts.append(f"## {TITLES[command]}\n\nNot measured yet: `make {command}`.\n")
        else:
            parts.append("\n".join(_part(run)))
    return "\n".join(parts)


def _latest(results: Path, command: str) -> RunDirectory | None:
    for run in all_runs(results):
        if run.command == command and run.read("findings"):
            return run
    return None


def _part(run: RunDirectory) -> Iterator[str]:
    series = read_samples(run.path / "samples")
    content = read(run, series)
    yield f"## {TITLES[run.command]}\n"
    yield f"`make {run.command}`, {run.started}.\n"
    yield _constraints(constraints_part.read(run, content.options))
    yield "| what was to be shown | measured | holds |\n| --- | --- | --- |"
    yield from (f"| {one.claim} | {one.measured} | {one.verdict} |" for one in content.findings)
    yield ""
    for table in _tables(run, series):
        yield markdown(table)


def _constraints(facts: dict[str, Any]) -> str:
    lines = []
    for title, pairs in facts.items():
        if pairs and title != "Settings of the env file":
            text = "; ".join(f"{name} {value}" for name, value in pairs.items())
            lines.append(f"- {title}: {text}.")
    return "\n".join(lines) + "\n"


def _tables(run: RunDirectory, series: Sequence[Series]) -> Iterable[Table]:
    match run.command:
        case "compare":
            lab, stack = run.read("compare-lab"), run.read("compare-stack")
            yield compare_part.ways_table(incident.rows(lab, stack, series))
            if lab and lab.get("processes"):
                yield compare_part.processes_table(lab["processes"], series)
        case "load-sql":
            lines = sql.lines(run.read("load-sql")["runs"], series)
            for kind in dict.fromkeys(line.kind for line in lines):
                yield sql_part.throughput_table(kind, lines)
            yield sql_part.memory_table(lines)
        case "isolation":
            yield isolation_part.table(run.read("isolation"))
        case "tune":
            result = run.read("tune")["result"]
            if result:
                yield tune_part.recommendation_table(result)
                yield tune_part.verified_table(result)
        case _:
            yield load_part.table(run.read(run.command))


def markdown(table: Table) -> str:
    """Return a table as Markdown, its note below."""
    lines = [f"**{table.title}**\n", _row(table.columns), _row(["---"] * len(table.columns))]
    lines += [_row(row) for row in table.shown()]
    return "\n".join(lines) + (f"\n\n{table.note}\n" if table.note else "\n")


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
