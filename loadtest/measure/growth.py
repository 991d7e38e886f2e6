"""Growth over a long run: of memory, open files, connections.

The first quarter of the run is left out: caches fill, pools reach their size. Growth is the
median of the last quarter against the median of the second; it counts when it is beyond both
a share and an amount, so that neither a small process nor a large one gives a false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median

import typer

from loadtest.run_directory import KB_PER_MIB, RunDirectory, Series

SAMPLES_MIN = 16


@dataclass(frozen=True, slots=True)
class Watched:
    """One figure that must not grow; `noise` is the amount that is never growth."""

    name: str
    title: str
    unit: str
    noise: float
    services: tuple[str, ...] = ("postgres", "pgbouncer", "api", "worker")


WATCHED = (
    # Without shared memory: shared_buffers fill up, once, and that is what they are for.
    Watched("process_own_kb", "memory (PSS without shared memory)", "kB", 8 * KB_PER_MIB),
    Watched("files", "open files", "files", 16),
    Watched("connections", "connections", "connections", 4, ("postgres",)),
    Watched("clients", "client connections", "connections", 4, ("pgbouncer",)),
    Watched("pool_size", "pooled connections", "connections", 4, ("api", "worker")),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """One figure of one container: medians of the second and the last quarter."""

    container: str
    figure: str
    unit: str
    early: float
    late: float
    peak: float
    grew: bool

    @property
    def percent(self) -> float:
        """Return the growth in per cent of the early median."""
        return 100 * (self.late - self.early) / self.early if self.early else 0.0


def measure(series: Iterable[Series], percent_max: float) -> list[Growth]:
    """Return the growth of every watched figure of every container."""
    return [
        _growth(one, watched, one.values(watched.name), percent_max)
        for one in series
        for watched in WATCHED
        if one.service in watched.services and one.values(watched.name)
    ]


def run(directory: RunDirectory, percent_max: float) -> int:
    """Judge a soak; 1 when something grew, or when there are too few samples to tell."""
    found = measure(directory.samples(), percent_max)
    directory.write(
        "growth",
        {
            "percent_max": percent_max,
            "figures": [asdict(one) | {"percent": one.percent} for one in found],
        },
    )
    if not found:
        typer.echo("growth: no samples of any container; see samples/errors.log", err=True)
        return 1
    for one in found:
        typer.echo(
            f"{one.container:<14} {one.figure:<36} {one.early:>12.0f} -> {one.late:>12.0f} "
            f"{one.unit:<12}{one.percent:>+7.1f} %{'  GREW' if one.grew else ''}"
        )
    return int(any(one.grew for one in found))


def _growth(series: Series, watched: Watched, values: list[float], percent_max: float) -> Growth:
    if len(values) < SAMPLES_MIN:
        # Too few to tell: shown as they are, never as growth.
        return Growth(
            series.label, watched.title, watched.unit, values[0], values[-1], max(values), False
        )
    quarter = len(values) // 4
    early, late = median(values[quarter : 2 * quarter]), median(values[-quarter:])
    allowed = early + max(watched.noise, early * percent_max / 100)
    grew = late > allowed and not math.isclose(late, allowed)
    return Growth(series.label, watched.title, watched.unit, early, late, max(values), grew)
