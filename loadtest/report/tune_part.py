"""The page of `make tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.findings import Finding, at_least, at_most
from loadtest.report import charts
from loadtest.report.parts import Section, Table

COLUMNS = (
    "size",
    "throughput, median",
    "min",
    "max",
    "p95, ms",
    "failed",
    "users by Little's law",
    "transactions/s",
    "time of one with its wait, ms",
    "wait, ms",
    "busy by Little's law",
    "busy, sampled",
)
NOTE = (
    "Throughput in {unit}. Users by Little's law: throughput x mean response time; in a closed "
    "loop without thought it must come to the number of users. Busy by the law: PgBouncer's "
    "transactions per second x their time less the wait, beside the mean of the sampled busy "
    "server connections, all replicas."
)
KNEE = (
    "The knee is the smallest size within 3 % of the best; the shaded range, where there are "
    "rounds enough for one, holds it in 90 of 100 sweeps. Bars are the range of the rounds."
)


def findings(data: Mapping[str, Any]) -> list[Finding]:
    """Return whether the recommendation did as well as the best, in time, without a failure."""
    result = data["result"]
    if not result:
        return [Finding("the run was finished", "it can be resumed: make tune RESUME=yes", False)]
    found = [
        Finding(f"recommended, {one['load']}: of the best measured", one["not_measured"], None)
        if one["not_measured"]
        else at_least(
            f"recommended, {one['load']}: of the best measured (>= 95 %)",
            one["percent_of_best"],
            95,
            " %",
        )
        for one in result["verified"]
    ]
    minutes = result["minutes"]
    return [
        *found,
        Finding("no request failed", f"{result['failures']} failed", result["failures"] == 0),
        at_most(
            f"within its time (<= {minutes:g} min and the point under way)",
            result["spent_seconds"] / 60,
            minutes + 1,
            " min",
        ),
    ]


def sections(data: Mapping[str, Any]) -> list[Section]:
    """Return the page's own sections."""
    result = data["result"]
    if not result:
        return [Section("Not finished", f"{len(data['measurements'])} points are measured.")]
    refused = [[name, reason] for name, reason in data["refused"].items()]
    found = [_recommendation(result), *(_stage(stage) for stage in result["stages"])]
    if refused:
        table = Table("Refused by apply", ("point", "reason"), refused)
        found.append(Section("Left out", "", [table]))
    return found


def recommendation_table(result: Mapping[str, Any]) -> Table:
    """Return one row per swept setting."""
    rows = [
        [
            stage["setting"],
            stage["in_force"],
            stage["knee"]["size"],
            stage["knee"]["certainty"],
            stage["knee"]["about_larger"],
            stage["knee"]["at_knee"],
            stage["knee"]["best"],
            f"{stage['knee']['share_percent']:.1f} %",
            stage["unit"],
        ]
        for stage in result["stages"]
    ]
    columns = (
        "setting",
        "was",
        "recommended",
        "how sure",
        "larger sizes",
        "throughput there",
        "best",
        "of best",
        "unit",
    )
    return Table("Recommendation", columns, rows, "recommended.env beside this page has it whole.")


def verified_table(result: Mapping[str, Any]) -> Table:
    """Return how the recommendation did, all of it in force together."""
    rows = [
        [
            one["load"],
            one["throughput"]["runs"],
            one["throughput"]["median"],
            one["throughput"]["minimum"],
            one["throughput"]["maximum"],
            one["best"]["median"],
            one["best"]["minimum"],
            one["best"]["maximum"],
            f"{one['percent_of_best']:.1f} %",
            one["best_of_sweeps"],
            one["failures"],
        ]
        for one in result["verified"]
        if not one["not_measured"]
    ]
    columns = (
        "load",
        "runs",
        "recommended, median",
        "min",
        "max",
        "best sizes of the sweeps, median",
        "min",
        "max",
        "of best",
        "highest in the sweeps",
        "failed",
    )
    note = (
        "The recommendation and the sizes with the highest throughput of each sweep, measured "
        "again in turns: between a sweep and now the machine may have changed, within a turn not."
    )
    return Table("Verified", columns, rows, note)


def _recommendation(result: Mapping[str, Any]) -> Section:
    text = (
        "To put it in force: copy recommended.env over the env file, then make plan and make "
        "apply. Nothing needs a restart. plan.txt beside this page is what plan says of it."
    )
    tables = [recommendation_table(result), verified_table(result)]
    return Section("Recommendation", text, [table for table in tables if table.rows])


def _stage(stage: Mapping[str, Any]) -> Section:
    rows = [[point["size"], *_figures(point)] for point in stage["points"]]
    table = Table(stage["setting"], COLUMNS, rows, NOTE.format(unit=stage["unit"]))
    knee = stage["knee"]
    chart = charts.knee(
        f"{stage['name'].capitalize()}: the knee",
        stage["points"],
        f"{stage['setting']} (logarithmic)",
        knee["size"],
        knee["interval"] or (knee["size"], knee["size"]),
        KNEE,
    )
    return Section(stage["name"].capitalize(), f"Load: {stage['load']}.", [table], [chart])


def _figures(point: Mapping[str, Any]) -> list[Any]:
    throughput, law = point["throughput"], point["little"] or {}
    names = (
        "transactions_per_second",
        "transaction_ms",
        "wait_ms",
        "busy_by_law",
        "busy_sampled",
    )
    return [
        throughput["median"],
        throughput["minimum"],
        throughput["maximum"],
        point["p95_ms"]["median"],
        point["failures"],
        point["users_by_law"],
        *(law.get(name) for name in names),
    ]
