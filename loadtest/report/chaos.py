"""The page about a campaign of faults: what was done, what callers saw, what was broken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.figures import Finding
from loadtest.report.parts import Content, Section, Table, spans, timeline
from loadtest.run_directory import RunDirectory, Series

INVARIANTS = {
    "W": "every acknowledged write is there, once, in an order that explains every read",
    "D": "no request outlives its deadline by more than half a second",
    "R": "after each round requests succeed again in time, and every command comes to its end",
    "L": "nothing is left: no open transaction, no lease, no unfinished assessment; not many more "
    "open files than before",
    "S": "callers see 2xx, 4xx, or 503 with Retry-After",
}


def content(run: RunDirectory, _series: Sequence[Series]) -> Content | None:
    """Return the page's sections; None where the campaign did not come to its end."""
    data = run.read("chaos")
    if data is None:
        return None
    findings = [
        Finding(claim, f"{len(broken)} violations" if broken else "no violation", not broken)
        for claim, broken in ((INVARIANTS[name], data["violations"][name]) for name in INVARIANTS)
    ]
    table = _recoveries(data)
    sections = [_violations(data)] if any(data["violations"].values()) else []
    sections += [_timeline(data), Section("Rounds", tables=[table, _before_and_after(data)])]
    options = data["options"] | {"minutes": round(len(data["good"]) / 60, 1)}
    options = {name: value for name, value in options.items() if value is not None}
    return Content(options, findings, sections, [table])


def _violations(data: Mapping[str, Any]) -> Section:
    first = [
        [name, broken[0], len(broken)] for name, broken in data["violations"].items() if broken
    ]
    return Section(
        "What was broken",
        "The first violation of each invariant; the histories are beside this page.",
        tables=[Table("", ("invariant", "first violation", "in all"), first)],
    )


def _timeline(data: Mapping[str, Any]) -> Section:
    done: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in data["events"]:
        if not event["not_done"]:
            done[event["fault"]].append((event["began"], event["ended"]))
    seconds = len(data["good"])
    return Section(
        "Over time",
        f"{data['requests']:,} requests; the faults are those of seed {data['options']['seed']}.",
        charts=[
            spans("Faults", done, seconds),
            timeline(
                "Requests",
                {"answered": _points(data["good"]), "failed": _points(data["failed"])},
                "per second",
                below=seconds,
            ),
            timeline(
                "Latency",
                {"p95": _points(data["p95_ms"])},
                "ms",
                "Of the requests that ended then.",
                below=seconds,
            ),
            timeline(
                "Waiting in PgBouncer", {"clients": data["waiting"]}, "clients", below=seconds
            ),
        ],
    )


def _points(values: Sequence[float | None]) -> list[tuple[float, float | None]]:
    return list(enumerate(values))


def _recoveries(data: Mapping[str, Any]) -> Table:
    faults: dict[int, list[str]] = defaultdict(list)
    for event in data["events"]:
        faults[event["round"]].append(event["fault"] + " (not done)" * bool(event["not_done"]))
    return Table(
        "Recovery",
        ("round", "faults", "requests failed for, s", "at most, s"),
        [
            [str(one["round"]), " + ".join(faults[one["round"]]), one["seconds"], one["bound"]]
            for one in data["recoveries"]
        ],
        "Seconds after the round's last fault had ended until the last request that failed.",
    )


def _before_and_after(data: Mapping[str, Any]) -> Table:
    """Return what was measured without a fault, before the first round and after the last."""
    quiet = data["quiet"]
    rows = [["p99 of requests, ms", *(one["p99_ms"] for one in quiet)]]
    tiers = quiet[0]["files"] if quiet else ()
    rows += [[f"open files, {tier}", *(one["files"][tier] for one in quiet)] for tier in tiers]
    return Table(
        "Before and after",
        ("", *("before", "after")[: len(quiet)]),
        rows,
        "Ten seconds each without a fault; files of each tier's container that has the most.",
    )
