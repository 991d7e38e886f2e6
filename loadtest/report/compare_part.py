"""The page of `make compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.findings import Finding
from loadtest.histogram import Histogram
from loadtest.incident import summary
from loadtest.incident.summary import Row
from loadtest.report import charts
from loadtest.report.parts import Section, Table
from loadtest.samples import Series

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

Data = Mapping[str, Any] | None


def findings(lab: Data, stack: Data, series: Sequence[Series]) -> list[Finding]:
    """Return what the comparison was made to show."""
    return summary.findings(summary.rows(lab, stack, series), lab, stack)


def sections(lab: Data, stack: Data, series: Sequence[Series]) -> list[Section]:
    """Return the page's own sections."""
    rows = summary.rows(lab, stack, series)
    found = [
        Section("The incident, before and after", "", [ways_table(rows)], _charts(rows, lab)),
    ]
    errors = [
        [row.title, text, count]
        for row in rows
        for text, count in (lab or {}).get("ways", {}).get(row.name, {}).get("errors", {}).items()
    ]
    if errors:
        table = Table("What failed", ("way", "error", "count"), errors)
        found.append(Section("Failures", "", [table]))
    if lab and lab.get("processes"):
        found.append(_processes(lab["processes"], series))
    if stack:
        found.append(_stack(stack))
    return found


def ways_table(rows: Sequence[Row]) -> Table:
    """Return one row per way."""
    sluice = next((row.seconds for row in rows if row.name == "sluice"), None)
    return Table("One site, four ways", COLUMNS, [_row(row, sluice) for row in rows], NOTE)


def processes_table(processes: Sequence[Mapping[str, Any]], series: Sequence[Series]) -> Table:
    """Return one row per number of processes and path."""
    rows = []
    for one in processes:
        inside = [
            part.between(one["started"], one["ended"])
            for part in series
            if part.service == "lab-postgres"
        ]
        connections = [value for part in inside for value in part.values("connections")]
        memory = [value for part in inside for value in part.values("backends_pss_kb")]
        rows.append(
            [
                one["processes"],
                one["target"],
                one["operations_per_second"],
                one["failed_operations"],
                one["timeouts"],
                one["acquisition"]["p50_ms"],
                one["acquisition"]["p99_ms"],
                max(connections, default=None),
                max(memory) / summary.KB_PER_MIB if memory else None,
            ]
        )
    return Table("N application processes at once", PROCESS_COLUMNS, rows)


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


def _charts(rows: Sequence[Row], lab: Data) -> list[Any]:
    short = {row.title.split(" ", 1)[0] + " " + row.name.replace("_", " "): row for row in rows}
    finished = {name: row for name, row in short.items() if row.name != "as_it_was"}
    found = [
        charts.bars(
            "Time of one site",
            {"seconds": {name: row.seconds for name, row in finished.items()}},
            "seconds (logarithmic)",
            "Only ways that reach the end; the failing run has none.",
            logarithmic=True,
        ),
        charts.bars(
            "Peak connections at PostgreSQL",
            {"connections": {name: row.connections for name, row in short.items()}},
            "connections",
        ),
    ]
    ways = (lab or {}).get("ways", {})
    found.append(
        charts.distribution(
            "Acquiring a connection",
            {name: Histogram.from_json(way["histogram"]) for name, way in ways.items()},
            "From asking to having it, per operation.",
        )
    )
    return found


def _processes(processes: Sequence[Mapping[str, Any]], series: Sequence[Series]) -> Section:
    chart = charts.bars(
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
    table = processes_table(processes, series)
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
