"""What host/sample.sh wrote: time series of every container, by service and replica."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one container in the order of time; `t` is Unix time in seconds."""

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


def read_samples(directory: Path) -> list[Series]:
    """Return every container's series; a line that was cut short is left out."""
    series = []
    for path in sorted(directory.glob("*.txt")):
        service, _, replica = path.stem.rpartition("-")
        samples = tuple(_samples(path.read_text(encoding="utf-8").splitlines()))
        series.append(Series(service, replica, samples))
    return series


def total(
    series: Iterable[Series], service: str, name: str, combine: Callable[[list[float]], float]
) -> float | None:
    """Return a figure summed over the replicas of a service, each reduced by `combine`."""
    found = [one.values(name) for one in series if one.service == service]
    parts = [combine(values) for values in found if values]
    return sum(parts) if parts else None


def peak(series: Iterable[Series], service: str, name: str) -> float | None:
    """Return the sum over replicas of each one's highest value."""
    return total(series, service, name, max)


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
