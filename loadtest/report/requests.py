"""Pages about requests to the api: `make load`, `make soak` and `make isolation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.figures import Finding, Histogram, at_most
from loadtest.measure.isolation import IDLE, JUDGED
from loadtest.report.parts import Content, Section, Table, distribution, timeline
from loadtest.run_directory import RunDirectory, Series

COLUMNS = (
    "request",
    "count",
    "per second",
    "failed",
    "failed, %",
    "mean, ms",
    "p50",
    "p95",
    "p99",
    "p99.9",
)
PHASE_COLUMNS = (
    "phase",
    "requests",
    "failed",
    "p50, ms",
    "p95",
    "p99",
    "p99, lowest run",
    "highest",
    "p99 of idle",
)
# What an idle stack may do, and how soon it shall begin what is submitted.
IDLE_TRANSACTIONS_MAX = 5.0
START_P95_MS_MAX = 50.0
IDLE_COLUMNS = ("submissions", "start p50, ms", "p95", "p99", "idle transactions per second")
ISOLATION_TEXT = (
    "Reads of one assessment's status at a fixed rate, each timed from when it was due. First "
    "with the batch pool idle; then with all its server connections taken by clients that sleep, "
    "so that only the queue is seen; then with the workers computing, so that the processors are "
    "shared too."
)


def load(run: RunDirectory, _: Sequence[Series]) -> Content | None:
    """Return the page of `make load` or `make soak`; None without a result."""
    data, growth = run.read(run.command), run.read("growth")
    if data is None:
        return None
    table = _kinds_table(data)
    sections = [_requests(data, table), _over_time(data)]
    if growth is not None:
        sections.append(_growth(growth))
    options = data["options"] | data["thresholds"]
    return Content(options, _load_findings(data, growth), sections, [table])


def isolation(run: RunDirectory, _: Sequence[Series]) -> Content | None:
    """Return the page of `make isolation`; None without a result."""
    data, idle = run.read("isolation"), run.read("idle")
    if data is None:
        return None
    table = _phases_table(data)
    chart = distribution(
        "Latency of requests by phase",
        {name: Histogram.from_json(one["histogram"]) for name, one in data["phases"].items()},
    )
    section = Section("Requests beside batch work", ISOLATION_TEXT, [table], [chart])
    sections, findings, tables = [section], _isolation_findings(data), [table]
    # A run of before this was measured has none.
    if idle is not None:
        idle_table = _idle_table(idle)
        sections.insert(0, Section("An idle stack", "", [idle_table], []))
        findings += _idle_findings(idle)
        tables.insert(0, idle_table)
    return Content(data["options"], findings, sections, tables)


def _load_findings(data: Mapping[str, Any], growth: Mapping[str, Any] | None) -> list[Finding]:
    """Return the thresholds of the run and, for a soak, whether anything grew."""
    whole, limits = data["all"], data["thresholds"]
    error_max, p95_max = limits["error_percent_max"], limits["p95_ms_max"]
    found = [
        at_most(f"failed requests (<= {error_max:g} %)", whole["error_percent"], error_max, " %"),
        at_most(f"p95 of all requests (<= {p95_max:g} ms)", whole["p95_ms"], p95_max, " ms"),
    ]
    if growth is not None:
        grew = [one for one in growth["figures"] if one["grew"]]
        names = ", ".join(f"{one['container']}: {one['figure']}" for one in grew)
        claim = f"nothing grows (<= {growth['percent_max']:g} %)"
        found.append(Finding(claim, names or "nothing grew", not grew))
    return found


def _kinds_table(data: Mapping[str, Any]) -> Table:
    """Return one row per kind of request, and one for all."""
    kinds = [*data["kinds"].items(), ("all", data["all"])]
    return Table(
        "Requests",
        COLUMNS,
        [[name, *_figures(kind)] for name, kind in kinds],
        "Latency as the caller saw it; a percentile is right to 2 %.",
    )


def _figures(kind: Mapping[str, Any]) -> list[Any]:
    names = ("count", "per_second", "failures", "error_percent", "mean_ms")
    percentiles = ("p50_ms", "p95_ms", "p99_ms", "p99.9_ms")
    return [kind[name] for name in names + percentiles]


def _requests(data: Mapping[str, Any], table: Table) -> Section:
    tables = [table]
    if data["errors"]:
        errors = Table("Errors", ("error", "count"), list(data["errors"].items()))
        tables.append(errors)
    histograms = {
        name: Histogram.from_json(kind["histogram"]) for name, kind in data["kinds"].items()
    }
    chart = distribution(
        "Latency distribution",
        histograms,
        "A steep line is an even service; a long way from 90 to 100 % is a tail of slow requests.",
    )
    return Section("Requests", "", tables, [chart])


def _over_time(data: Mapping[str, Any]) -> Section:
    seconds = data["seconds"]
    rate = {
        "requests per second": [(one["second"], one["requests"]) for one in seconds],
        "failed per second": [(one["second"], one["failures"]) for one in seconds],
        "users": [(one["second"], one["users"]) for one in seconds],
    }
    latency = {
        name: [(one["second"], one[f"{name}_ms"]) for one in seconds]
        for name in ("p50", "p95", "p99")
    }
    return Section(
        "Load over time",
        "",
        [],
        [
            timeline("Throughput and users", rate, "per second; users"),
            timeline("Latency", latency, "latency, ms", "Of the requests of each second."),
        ],
    )


def _growth(growth: Mapping[str, Any]) -> Section:
    rows = [
        [
            one["container"],
            one["figure"],
            one["early"],
            one["late"],
            one["peak"],
            one["percent"],
            "GREW" if one["grew"] else "",
        ]
        for one in growth["figures"]
    ]
    columns = ("container", "figure", "second quarter", "last quarter", "peak", "growth, %", "")
    note = (
        "Medians of the second and the last quarter of the run; memory in kB. The first quarter is "
        "left out: caches fill and pools reach their size."
    )
    return Section("Growth", "", [Table("Memory, files and connections", columns, rows, note)])


def _isolation_findings(data: Mapping[str, Any]) -> list[Finding]:
    """Return the ratio of the judged phase, and failures."""
    phases, limit = data["phases"], data["options"]["ratio_max"]
    idle, judged = phases[IDLE]["all"]["p99_ms"], phases[JUDGED]["all"]["p99_ms"]
    failures = sum(phase["failures"] for phase in phases.values())
    return [
        at_most(
            f"interactive p99 while the batch pool is full, of idle (<= {limit:g} times)",
            judged / idle,
            limit,
            " times",
        ),
        Finding("no request failed", f"{failures} failed", failures == 0),
    ]


def _idle_findings(data: Mapping[str, Any]) -> list[Finding]:
    """Return how soon a submission begins, and what an idle stack does."""
    return [
        at_most(
            f"start of a submission on an idle stack, p95 (<= {START_P95_MS_MAX:g} ms)",
            data["start"]["p95_ms"],
            START_P95_MS_MAX,
            " ms",
        ),
        at_most(
            f"transactions of an idle stack (<= {IDLE_TRANSACTIONS_MAX:g} a second)",
            data["transactions_per_second"],
            IDLE_TRANSACTIONS_MAX,
            " a second",
        ),
    ]


def _idle_table(data: Mapping[str, Any]) -> Table:
    """Return the one row of an idle stack."""
    start = data["start"]
    row = [start[name] for name in ("count", "p50_ms", "p95_ms", "p99_ms")]
    note = (
        "From created_at to started_at, both the database's; health checks of all containers "
        "are among the transactions."
    )
    return Table("Idle", IDLE_COLUMNS, [[*row, data["transactions_per_second"]]], note)


def _phases_table(data: Mapping[str, Any]) -> Table:
    """Return one row per phase."""
    idle = data["phases"][IDLE]["all"]["p99_ms"]
    rows = [
        [
            name,
            one["all"]["count"],
            one["failures"],
            one["all"]["p50_ms"],
            one["all"]["p95_ms"],
            one["all"]["p99_ms"],
            one["p99_ms"]["minimum"],
            one["p99_ms"]["maximum"],
            f"{one['all']['p99_ms'] / idle:.2f}",
        ]
        for name, one in data["phases"].items()
    ]
    return Table("Phases", PHASE_COLUMNS, rows, "Over all repeats, in turns.")
