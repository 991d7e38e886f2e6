"""Connections, waiting, memory and processors over time, from the samples of every tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadtest.report.parts import Section, timeline
from loadtest.run_directory import KB_PER_MIB, NS_PER_SECOND, Series

# Per tier: figure, how it is named in the legend.
CONNECTIONS = {
    "postgres": (("connections", "sessions at PostgreSQL"), ("active", "of these active")),
    "lab-postgres": (
        ("connections", "sessions at the lab's PostgreSQL"),
        ("active", "of these active"),
    ),
    "pgbouncer": (("clients", "clients of PgBouncer"), ("servers", "its server connections")),
    "lab-pgbouncer": (
        ("clients", "clients of the lab's PgBouncer"),
        ("servers", "its server connections"),
    ),
    "api": (("pool_size", "pool of the api"),),
    "worker": (("pool_size", "pool of the worker"),),
}
WAITING = {
    "api": (("pool_waiting", "for the api's pool"),),
    "worker": (("pool_waiting", "for the worker's pool"),),
    "pgbouncer": (
        ("risk_waiting", "for interactive server connections"),
        ("risk_batch_waiting", "for batch server connections"),
    ),
    "lab-pgbouncer": (("waiting", "for the lab's server connections"),),
    "postgres": (("lock_waits", "for a lock in PostgreSQL"),),
    "lab-postgres": (("lock_waits", "for a lock in the lab's PostgreSQL"),),
}
Wanted = Mapping[str, Sequence[tuple[str, str]]]


def section(series: Sequence[Series]) -> Section | None:
    """Return what each tier did over the run; None without samples."""
    starts = [one.samples[0]["t"] for one in series if one.samples]
    if not starts:
        return None
    start = min(starts)
    found = Section("Over time", "Sampled inside each container, about once per second.")
    for title, wanted, y_title, note in (
        (
            "Connections per tier",
            CONNECTIONS,
            "connections",
            "Clients many, sessions few: the distance between the two is what pooling does.",
        ),
        (
            "Waiting",
            WAITING,
            "waiting",
            "Whoever waits, waits where the bottleneck is: see which line rises first.",
        ),
    ):
        lines = _lines(series, wanted, start)
        if lines:
            found.charts.append(timeline(title, lines, y_title, note))
    found.charts.append(
        timeline(
            "Memory",
            {
                one.label: [
                    (sample["t"] - start, sample["process_pss_kb"] / KB_PER_MIB)
                    for sample in one.samples
                    if "process_pss_kb" in sample
                ]
                for one in series
            },
            "PSS of all processes, MiB",
            "PSS counts a shared page once, however many processes have it mapped.",
        )
    )
    found.charts.append(
        timeline(
            "Processors",
            {one.label: _cores(one, start) for one in series},
            "processors in use",
            "The container that is at its limit is what the throughput ends at.",
        )
    )
    return found


def _lines(
    series: Sequence[Series], wanted: Wanted, start: float
) -> dict[str, list[tuple[float, float | None]]]:
    found: dict[str, list[tuple[float, float | None]]] = {}
    for one in series:
        for name, title in wanted.get(one.service, ()):
            points: list[tuple[float, float | None]] = [
                (sample["t"] - start, sample[name]) for sample in one.samples if name in sample
            ]
            # A line that is zero throughout says nothing and hides the others' colours.
            if any(value for _, value in points):
                found[f"{title} {one.replica}"] = points
    return found


def _cores(series: Series, start: float) -> list[tuple[float, float | None]]:
    found: list[tuple[float, float | None]] = []
    last: tuple[float, float] | None = None
    for sample in series.samples:
        if "cpu_ns" not in sample:
            continue
        now = (sample["t"], sample["cpu_ns"] / NS_PER_SECOND)
        if last is not None and now[0] > last[0]:
            found.append((now[0] - start, (now[1] - last[1]) / (now[0] - last[0])))
        last = now
    return found
