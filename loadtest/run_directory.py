"""Where one run leaves its figures: JSON and samples beside the page that shows them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_DIR_VARIABLE = "RUN_DIR"
KB_PER_MIB = 1024.0
NS_PER_SECOND = 1e9

Sample = dict[str, float]


class RunDirectoryError(Exception):
    """No run directory was given, or what is in it cannot be read."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A directory `<time>-<command>` below loadtest/results."""

    path: Path

    @classmethod
    def from_environment(cls) -> RunDirectory:
        """Return the directory that loadtest/run made; raise RunDirectoryError without one."""
        value = os.environ.get(RUN_DIR_VARIABLE)
        if not value or not Path(value).is_dir():
            raise RunDirectoryError(
                f"{RUN_DIR_VARIABLE}={value!r}: must name the directory of a run; "
                "start this by loadtest/run"
            )
        return cls(Path(value).resolve())

    @property
    def command(self) -> str:
        """Return the command that made the run."""
        return self.path.name.partition("-")[2]

    @property
    def started(self) -> str:
        """Return the start as ISO 8601 in UTC."""
        stamp = self.path.name.partition("-")[0]
        if len(stamp) != len("20260101T000000Z"):
            return stamp
        return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]} UTC"

    def write(self, name: str, data: Any) -> None:
        """Write `name`.json whole or not at all."""
        target = self.path / f"{name}.json"
        temporary = target.with_suffix(".json.new")
        temporary.write_text(json.dumps(_plain(data), indent=1) + "\n", encoding="utf-8")
        temporary.replace(target)

    def read(self, name: str) -> Any:
        """Return what `write` stored under `name`, or None."""
        try:
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunDirectoryError(f"{self.path}/{name}.json: {error}") from error

    def samples(self) -> list[Series]:
        """Return every container's series; a line that was cut short is left out."""
        series = []
        for path in sorted((self.path / "samples").glob("*.txt")):
            service, _, replica = path.stem.rpartition("-")
            samples = tuple(_samples(path.read_text(encoding="utf-8").splitlines()))
            series.append(Series(service, replica, samples))
        return series


def all_runs(results: Path) -> Iterator[RunDirectory]:
    """Yield the runs below a results directory, newest first."""
    for path in sorted(results.iterdir(), reverse=True):
        if path.is_dir() and "-" in path.name:
            yield RunDirectory(path)


@dataclass(frozen=True, slots=True)
class Series:
    """What host/sample.sh wrote of one container, in the order of time.

    `t` of a sample is Unix time in seconds; the unit of any other figure is in its name.
    """

    service: str
    replica: str
    samples: tuple[Sample, ...]

    @property
    def label(self) -> str:
        """Return how plots name the container."""
        return f"{self.service} {self.replica}"

    def between(self, started: float, ended: float) -> Series:
        """Return the part of the series inside a span of Unix time."""
        inside = tuple(one for one in self.samples if started <= one["t"] <= ended)
        return Series(self.service, self.replica, inside)

    def values(self, name: str) -> list[float]:
        """Return one figure of every sample that has it."""
        return [one[name] for one in self.samples if name in one]


def reduced(
    series: Iterable[Series],
    service: str,
    name: str,
    reduce: Callable[[list[float]], float],
    *,
    per: float = 1.0,
) -> float | None:
    """Return all samples of a figure of a service as one, divided by `per`; None without any."""
    values = [value for one in series if one.service == service for value in one.values(name)]
    return reduce(values) / per if values else None


def _samples(lines: Iterable[str]) -> Iterator[Sample]:
    for line in lines:
        try:
            sample = {name: float(value) for name, value in map(_pair, line.split())}
        except ValueError:
            continue
        if "t" in sample:
            yield sample


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(text)
    return name, value


def _plain(data: Any) -> Any:
    """JSON has no NaN: a figure that does not exist is null."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data
