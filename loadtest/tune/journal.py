"""What was measured so far, on disk after every point, so that a run can be resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.measure.traffic import DEFAULT_MIX
from loadtest.run_directory import RunDirectory

NAME = "tune"
Settings = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """The stated load, the repeats, and the time that the whole may take."""

    minutes: float = 15.0
    repeats: int = 3
    users: int = 24
    point_seconds: float = 6.0
    mix: str = DEFAULT_MIX
    tasks_each: int = 4
    # Where the sweeps of one stage are cut short for time, the others still get theirs.
    verify: int = 3


@dataclass(slots=True)
class Measurement:
    """One measured point: throughput in its stage's unit, latency in ms."""

    stage: str
    size: int
    throughput: float
    p50_ms: float | None
    p95_ms: float | None
    mean_ms: float | None
    requests: int
    failures: int
    started: float
    ended: float


@dataclass(slots=True)
class Journal:
    """Everything that a resumed run needs to know."""

    options: TuneOptions
    base: Settings
    started: float
    spent_seconds: float = 0.0
    measurements: list[Measurement] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    result: dict[str, Any] = field(default_factory=dict)

    def of(self, stage: str, size: int) -> list[Measurement]:
        """Return the measurements of one point."""
        return [one for one in self.measurements if (one.stage, one.size) == (stage, size)]

    def is_refused(self, stage: str, size: int) -> bool:
        """Return True if `apply` has refused this point."""
        return _key(stage, size) in self.refused

    def refuse(self, stage: str, size: int, reason: str) -> None:
        """Note that `apply` has refused this point, and why."""
        self.refused[_key(stage, size)] = reason

    def failures(self) -> int:
        """Return the failed requests of the whole run."""
        return sum(one.failures for one in self.measurements)

    def out_of_time(self) -> bool:
        """Return True if the minutes of the options are spent."""
        return self.spent_seconds >= self.options.minutes * 60


def create(directory: RunDirectory, options: TuneOptions, base: Settings) -> Journal:
    """Start a journal."""
    journal = Journal(options, base, time.time())
    store(directory, journal)
    return journal


def load(directory: RunDirectory) -> Journal | None:
    """Return the journal of a run, or None where it has none yet."""
    data = directory.read(NAME)
    if data is None:
        return None
    data["options"] = TuneOptions(**data["options"])
    data["measurements"] = [Measurement(**one) for one in data["measurements"]]
    return Journal(**data)


def store(directory: RunDirectory, journal: Journal) -> None:
    """Write the journal."""
    directory.write(NAME, asdict(journal))


def sizes_measured(journal: Journal, stage: str) -> Iterator[int]:
    """Yield the sizes of a stage that have a measurement, ascending."""
    yield from sorted({one.size for one in journal.measurements if one.stage == stage})


def _key(stage: str, size: int) -> str:
    return f"{stage}={size}"
