"""Pages of `make load` and `make soak`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.findings import Finding, at_most
from loadtest.histogram import Histogram
from loadtest.report import charts
from loadtest.report.parts import Section, Table

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


def findings(data: Mapping[str, Any], growth: Mapping[str, Any] | None = None) -> list[Finding]:
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


def sections(data: Mapping[str, Any], growth: Mapping[str, Any] | None = None) -> list[Section]:
    """Return the page's own sections."""
    found = [_requests(data), _over_time(data)]
    if growth is not None:
        found.append(_growth(growth))
    return found


def table(data: Mapping[str, Any]) -> Table:
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


def _requests(data: Mapping[str, Any]) -> Section:
    tables = [table(data)]
    if data["errors"]:
        errors = Table("Errors", ("error", "count"), list(data["errors"].items()))
        tables.append(errors)
    histograms = {
        name: Histogram.from_json(kind["histogram"]) for name, kind in data["kinds"].items()
    }
    chart = charts.distribution(
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
            charts.timeline("Throughput and users", rate, "per second; users"),
            charts.timeline("Latency", latency, "latency, ms", "Of the requests of each second."),
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
