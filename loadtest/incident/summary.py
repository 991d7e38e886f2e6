"""The four ways side by side: time, rate, acquisition, connections, memory, failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.findings import Finding, at_least
from loadtest.samples import Series

TITLES = {
    "as_it_was": "(a) connection per operation, twelve held: the failure",
    "per_operation": "(a) connection per operation, one held: the cost",
    "pool_direct": "(b) pool in the process, direct",
    "pool_pgbouncer": "(c) pool in the process, through PgBouncer",
    "sluice": "(d) Sluice's worker",
}
KB_PER_MIB = 1024.0


@dataclass(frozen=True, slots=True)
class Row:
    """One way: seconds, tasks per second, ms, connections, MiB (PSS), counts."""

    name: str
    title: str
    tasks: int
    done: int
    lost: int
    unfinished: int
    seconds: float
    per_second: float | None
    acquisition: Mapping[str, Any]
    failed_operations: int
    timeouts: int
    connections: float | None
    backends_pss_mib: float | None
    backends_own_mib: float | None


def rows(
    lab: Mapping[str, Any] | None, stack: Mapping[str, Any] | None, series: Sequence[Series]
) -> list[Row]:
    """Return a row for every way that was run."""
    found = []
    for name in TITLES:
        way = (lab or {}).get("ways", {}).get(name)
        if way is not None:
            found.append(_lab_row(name, way, series))
    if stack is not None:
        found.append(_stack_row(stack, series))
    return found


def findings(
    all_rows: Sequence[Row], lab: Mapping[str, Any] | None, stack: Mapping[str, Any] | None
) -> list[Finding]:
    """Return what the comparison was made for."""
    by_name = {row.name: row for row in all_rows}
    sluice = by_name.get("sluice")
    found = []
    for name, claim, bound in (
        ("per_operation", "one site: (d) faster than (a), times (>= 500)", 500),
        ("pool_direct", "one site: (d) faster than (b), times (>= 25)", 25),
    ):
        other = by_name.get(name)
        ratio = other.seconds / sluice.seconds if other and sluice else None
        found.append(at_least(claim, ratio, bound))
    digests = set((lab or {}).get("digests", {}).values()) | ({stack["digest"]} if stack else set())
    found.append(
        Finding(
            "(a), (b), (c) and (d) give equal results, row by row and bit by bit",
            f"{len(digests)} distinct digest(s)",
            len(digests) == 1 if lab and stack and "digests" in lab else None,
        )
    )
    was = by_name.get("as_it_was")
    if was is not None and sluice is not None:
        failed = sluice.lost + sluice.unfinished
        found.append(
            Finding(
                "failures: 0 in (d) against those counted in (a)",
                f"{failed} against {was.lost} tasks lost, {was.unfinished} unfinished, "
                f"{was.failed_operations} operations failed",
                failed == 0 and was.lost > 0,
            )
        )
    return found


def _lab_row(name: str, way: Mapping[str, Any], series: Sequence[Series]) -> Row:
    inside = [one.between(way["started"], way["ended"]) for one in series]
    lab = [one for one in inside if one.service == "lab-postgres"]
    return Row(
        name,
        TITLES[name],
        way["tasks"],
        way["done"],
        way["lost"],
        way["unfinished"],
        way["seconds"],
        way["tasks_per_second"],
        way["acquisition"],
        way["failed_operations"],
        way["timeouts"],
        _highest(lab, "connections"),
        _mebibytes(lab, "backends_pss_kb"),
        _mebibytes(lab, "backends_own_kb"),
    )


def _stack_row(stack: Mapping[str, Any], series: Sequence[Series]) -> Row:
    runs = stack["one_site"]
    started, ended = runs[0]["started"], runs[-1]["ended"]
    server = [one.between(started, ended) for one in series if one.service == "postgres"]
    seconds = stack["seconds"]["median"]
    return Row(
        "sluice",
        f"{TITLES['sluice']} (median of {len(runs)})",
        runs[0]["tasks"],
        round(median(run["done"] for run in runs)),
        max(run["failed_tasks"] for run in runs),
        0,
        seconds,
        runs[0]["tasks"] / seconds,
        stack["acquisition"],
        sum(run["failed_tasks"] for run in runs),
        0,
        _highest(server, "connections"),
        _mebibytes(server, "backends_pss_kb"),
        _mebibytes(server, "backends_own_kb"),
    )


def _highest(series: Iterable[Series], name: str) -> float | None:
    values = [value for one in series for value in one.values(name)]
    return max(values) if values else None


def _mebibytes(series: Iterable[Series], name: str) -> float | None:
    value = _highest(series, name)
    return None if value is None else value / KB_PER_MIB
