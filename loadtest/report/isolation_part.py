"""The page of `make isolation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.findings import Finding, at_most
from loadtest.histogram import Histogram
from loadtest.isolation.names import IDLE, JUDGED
from loadtest.report import charts
from loadtest.report.parts import Section, Table

COLUMNS = (
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
TEXT = (
    "Reads of one assessment's status at a fixed rate, each timed from when it was due. First "
    "with the batch pool idle; then with all its server connections taken by clients that sleep, "
    "so that only the queue is seen; then with the workers computing, so that the processors are "
    "shared too."
)


def findings(data: Mapping[str, Any]) -> list[Finding]:
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


def sections(data: Mapping[str, Any]) -> list[Section]:
    """Return the page's own sections."""
    chart = charts.distribution(
        "Latency of requests by phase",
        {name: Histogram.from_json(one["histogram"]) for name, one in data["phases"].items()},
    )
    return [Section("Requests beside batch work", TEXT, [table(data)], [chart])]


def table(data: Mapping[str, Any]) -> Table:
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
    return Table("Phases", COLUMNS, rows, "Over all repeats, in turns.")
