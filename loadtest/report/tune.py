"""The page of `make tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.figures import Finding, at_least, at_most
from loadtest.report.parts import Content, Section, Table, knee_chart
from loadtest.run_directory import RunDirectory, Series

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
RECOMMENDATION = (
    "To apply it: copy recommended.env over the env file, then make plan and make apply. Nothing "
    "needs a restart. plan.txt beside this page is what plan says of it."
)


def content(run: RunDirectory, _: Sequence[Series]) -> Content | None:
    """Return the page of a run; None without a journal."""
    data = run.read("tune")
    if data is None:
        return None
    result = data["result"]
    if not result:
        text = f"{len(data['measurements'])} points are measured."
        unfinished = Finding(
            "the run was finished", "it can be resumed: make tune RESUME=yes", False
        )
        return Content(data["options"], [unfinished], [Section("Not finished", text)], [])
    tables = [_recommendation_table(result), _verified_table(result)]
    shown = [table for table in tables if table.rows]
    sections = [
        Section("Recommendation", RECOMMENDATION, shown),
        *(_stage(stage) for stage in result["stages"]),
    ]
    refused = [[name, reason] for name, reason in data["refused"].items()]
    if refused:
        table = Table("Refused by apply", ("point", "reason"), refused)
        sections.append(Section("Left out", "", [table]))
    return Content(data["options"], _findings(result), sections, tables)


def _findings(result: Mapping[str, Any]) -> list[Finding]:
    """Return whether the recommendation did as well as the best, in time, without a failure."""
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


def _recommendation_table(result: Mapping[str, Any]) -> Table:
    """Return one row per swept setting."""
    rows = [
        [
            stage["setting"],
            stage["running"],
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


def _verified_table(result: Mapping[str, Any]) -> Table:
    """Return how the recommendation did, all of it applied together."""
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


def _stage(stage: Mapping[str, Any]) -> Section:
    rows = [[point["size"], *_figures(point)] for point in stage["points"]]
    table = Table(stage["setting"], COLUMNS, rows, NOTE.format(unit=stage["unit"]))
    knee = stage["knee"]
    chart = knee_chart(
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
