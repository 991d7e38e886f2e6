"""The page of `make compare`: the ways side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.figures import Finding, Histogram, at_least
from loadtest.report.parts import Chart, Content, Section, Table, bars, distribution
from loadtest.run_directory import KB_PER_MIB, RunDirectory, Series, reduced

Data = Mapping[str, Any] | None

TITLES = {
    "as_it_was": "(a) connection per operation, twelve held: the failure",
    "per_operation": "(a) connection per operation, one held: the cost",
    "pool_direct": "(b) pool in the process, direct",
    "pool_pgbouncer": "(c) pool in the process, through PgBouncer",
    "sluice": "(d) Sluice's worker",
}
COLUMNS = (
    "way",
    "done of tasks",
    "lost",
    "unfinished",
    "seconds",
    "tasks/s",
    "times (d)",
    "acquire p50, ms",
    "p95",
    "p99",
    "peak connections",
    "backends PSS, MiB",
    "without shared, MiB",
    "failed operations",
    "timeouts",
)
NOTE = (
    "One site: four scenarios times the years. Acquisition is what an operation waits for a "
    "connection; (d)'s is from the workers' own histograms, as the upper bound of a bucket. "
    "Connections and memory are at the PostgreSQL that serves the way, at their highest."
)
PROCESS_COLUMNS = (
    "processes",
    "path",
    "operations/s",
    "failed operations",
    "of these timeouts",
    "acquire p50, ms",
    "p99",
    "peak connections",
    "backends PSS, MiB",
)
PROCESS_TEXT = (
    "Each process has the incident's own fix: eight threads and a pool of up to twenty "
    "connections. One such pool knows nothing of the others; PgBouncer is where they meet."
)


def content(run: RunDirectory, series: Sequence[Series]) -> Content | None:
    """Return the page of a run; None without a result."""
    lab, stack = run.read("compare-lab"), run.read("compare-stack")
    if lab is None and stack is None:
        return None
    rows = _rows(lab, stack, series)
    tables = [_ways_table(rows)]
    sections = [Section("The incident, before and after", "", [tables[0]], _charts(rows, lab))]
    errors = [
        [row.title, text, count]
        for row in rows
        for text, count in (lab or {}).get("ways", {}).get(row.name, {}).get("errors", {}).items()
    ]
    if errors:
        table = Table("What failed", ("way", "error", "count"), errors)
        sections.append(Section("Failures", "", [table]))
    if lab and lab.get("processes"):
        tables.append(_processes_table(lab["processes"], series))
        sections.append(_processes(lab["processes"], tables[1]))
    if stack:
        sections.append(_stack(stack))
    options = {name: (lab or {}).get(name) for name in ("site", "site_years")}
    return Content(options, _findings(rows, lab, stack), sections, tables)


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


def _rows(lab: Data, stack: Data, series: Sequence[Series]) -> list[Row]:
    """Return a row for every way that was run."""
    found = []
    for name in TITLES:
        way = (lab or {}).get("ways", {}).get(name)
        if way is not None:
            found.append(_lab_row(name, way, series))
    if stack is not None:
        found.append(_stack_row(stack, series))
    return found


def _findings(all_rows: Sequence[Row], lab: Data, stack: Data) -> list[Finding]:
    """Return what the comparison was made for."""
    by_name = {row.name: row for row in all_rows}
    sluice = by_name.get("sluice")
    found = []
    for name, claim, bound in (
        ("per_operation", "one site: (d) faster than (a), times (>= 2,000)", 2000),
        ("pool_direct", "one site: (d) faster than (b), times (>= 50)", 50),
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
        reduced(inside, "lab-postgres", "connections", max),
        reduced(inside, "lab-postgres", "backends_pss_kb", max, per=KB_PER_MIB),
        reduced(inside, "lab-postgres", "backends_own_kb", max, per=KB_PER_MIB),
    )


def _stack_row(stack: Mapping[str, Any], series: Sequence[Series]) -> Row:
    runs = stack["one_site"]
    started, ended = runs[0]["started"], runs[-1]["ended"]
    inside = [one.between(started, ended) for one in series]
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
        reduced(inside, "postgres", "connections", max),
        reduced(inside, "postgres", "backends_pss_kb", max, per=KB_PER_MIB),
        reduced(inside, "postgres", "backends_own_kb", max, per=KB_PER_MIB),
    )


def _ways_table(rows: Sequence[Row]) -> Table:
    """Return one row per way."""
    sluice = next((row.seconds for row in rows if row.name == "sluice"), None)
    return Table("One site, four ways", COLUMNS, [_row(row, sluice) for row in rows], NOTE)


def _processes_table(processes: Sequence[Mapping[str, Any]], series: Sequence[Series]) -> Table:
    """Return one row per number of processes and path."""
    rows = []
    for one in processes:
        inside = [part.between(one["started"], one["ended"]) for part in series]
        rows.append(
            [
                one["processes"],
                one["target"],
                one["operations_per_second"],
                one["failed_operations"],
                one["timeouts"],
                one["acquisition"]["p50_ms"],
                one["acquisition"]["p99_ms"],
                _peak(one, reduced(inside, "lab-postgres", "connections", max)),
                reduced(inside, "lab-postgres", "backends_pss_kb", max, per=KB_PER_MIB),
            ]
        )
    return Table("N application processes at once", PROCESS_COLUMNS, rows)


def _peak(one: Mapping[str, Any], sampled: float | None) -> float | None:
    """Return the most connections at the server; direct, the pools themselves know of theirs."""
    return max(sampled or 0, one["pool_connections"]) if one["target"] == "direct" else sampled


def _row(row: Row, sluice: float | None) -> list[Any]:
    acquisition = row.acquisition
    return [
        row.title,
        f"{row.done} of {row.tasks}",
        row.lost,
        row.unfinished,
        row.seconds,
        row.per_second,
        row.seconds / sluice if sluice and row.name != "as_it_was" else None,
        acquisition["p50_ms"],
        acquisition["p95_ms"],
        acquisition["p99_ms"],
        row.connections,
        row.backends_pss_mib,
        row.backends_own_mib,
        row.failed_operations,
        row.timeouts,
    ]


def _charts(rows: Sequence[Row], lab: Data) -> list[Chart]:
    short = {row.title.split(" ", 1)[0] + " " + row.name.replace("_", " "): row for row in rows}
    finished = {name: row for name, row in short.items() if row.name != "as_it_was"}
    found = [
        bars(
            "Time of one site",
            {"seconds": {name: row.seconds for name, row in finished.items()}},
            "seconds (logarithmic)",
            "Only ways that reach the end; the failing run has none.",
            logarithmic=True,
        ),
        bars(
            "Peak connections at PostgreSQL",
            {"connections": {name: row.connections for name, row in short.items()}},
            "connections",
        ),
    ]
    ways = (lab or {}).get("ways", {})
    found.append(
        distribution(
            "Acquiring a connection",
            {name: Histogram.from_json(way["histogram"]) for name, way in ways.items()},
            "From asking to having it, per operation.",
        )
    )
    return found


def _processes(processes: Sequence[Mapping[str, Any]], table: Table) -> Section:
    chart = bars(
        "Failed operations",
        {
            target: {
                f"{one['processes']} processes": one["failed_operations"]
                for one in processes
                if one["target"] == target
            }
            for target in ("pgbouncer", "direct")
        },
        "failed operations",
    )
    return Section("What a pool in each process cannot do", PROCESS_TEXT, [table], [chart])


def _stack(stack: Mapping[str, Any]) -> Section:
    names = ("tasks", "done", "failed_tasks", "seconds", "caller_seconds", "tasks_per_second")
    rows = [[one[name] for name in names] for one in stack["one_site"] + stack["eight_sites"]]
    columns = ("tasks", "done", "failed", "seconds", "the caller waited, s", "tasks/s")
    note = (
        "seconds: from the first claim to the end, by the server's clock. The caller's time has "
        "the submission, the idle worker's pause before it looks for work, and the polling on top."
    )
    return Section("(d), run by run", "", [Table("Assessments", columns, rows, note)])
