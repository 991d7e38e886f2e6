"""Figures of measurements: latencies, the spread of repeats, and if a claim holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

GROWTH = 1.02  # a percentile is right to 2 per cent
SMALLEST_SECONDS = 1e-7


class Histogram:
    """Counts of seconds in logarithmic buckets: bounded memory for any number of samples.

    Not safe for threads: give each its own and merge.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: Counter[int] = Counter(counts or {})

    @classmethod
    def of(cls, values: Iterable[float]) -> Histogram:
        """Return a histogram of the given seconds."""
        histogram = cls()
        for value in values:
            histogram.add(value)
        return histogram

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """Return a histogram of all that the parts counted."""
        histogram = cls()
        for part in parts:
            histogram.merge(part)
        return histogram

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Histogram:
        """Read what `to_json` gave."""
        return cls({int(bucket): count for bucket, count in data.items()})

    def to_json(self) -> dict[str, int]:
        """Return counts by bucket number."""
        return {str(bucket): count for bucket, count in sorted(self._counts.items())}

    @property
    def total(self) -> int:
        """Return how many samples were added."""
        return sum(self._counts.values())

    def add(self, seconds: float) -> None:
        """Count one sample."""
        self._counts[_bucket(seconds)] += 1

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self._counts.update(other._counts)

    def percentile(self, percent: float) -> float:
        """Return the upper bound in seconds of the bucket that holds it; NaN of nothing."""
        wanted = max(1, math.ceil(self.total * percent / 100))
        seen = 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen >= wanted:
                return _upper(bucket)
        return float("nan")

    def mean(self) -> float:
        """Return the mean in seconds, each sample at its bucket's middle."""
        if not self.total:
            return float("nan")
        middle = math.sqrt(GROWTH)
        return sum(_upper(b) / middle * n for b, n in self._counts.items()) / self.total

    def cumulative(self) -> tuple[list[float], list[float]]:
        """Return seconds and the share (0-1) of samples that took at most as long."""
        seconds, shares, seen = [], [], 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            seconds.append(_upper(bucket))
            shares.append(seen / self.total)
        return seconds, shares


def summary_ms(histogram: Histogram) -> dict[str, float | None]:
    """Return count, mean and percentiles in milliseconds; None where there is no sample."""
    named = {f"p{p:g}_ms": histogram.percentile(p) for p in (50, 95, 99, 99.9)}
    figures = {"mean_ms": histogram.mean(), **named}
    milliseconds = {
        name: None if math.isnan(value) else value * 1000 for name, value in figures.items()
    }
    return {"count": histogram.total, **milliseconds}


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeats of one figure, in the figure's own unit."""

    runs: int
    median: float
    minimum: float
    maximum: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    return Spread(len(values), median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim with its figure; `holds` is None where this run cannot tell."""

    claim: str
    measured: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        """Return yes, no, or that it was not measured."""
        if self.holds is None:
            return "not measured"
        return "yes" if self.holds else "NO"


def at_least(claim: str, value: float | None, bound: float, unit: str = "") -> Finding:
    """Return the finding that `value` is at least `bound`."""
    return _bounded(claim, value, unit, None if value is None else value >= bound)


def at_most(claim: str, value: float | None, bound: float, unit: str = "") -> Finding:
    """Return the finding that `value` is at most `bound`."""
    return _bounded(claim, value, unit, None if value is None else value <= bound)


def _bounded(claim: str, value: float | None, unit: str, holds: bool | None) -> Finding:
    shown = "-" if value is None else f"{value:,.4g}{unit}"
    return Finding(claim, shown, holds)


def _bucket(seconds: float) -> int:
    if seconds <= SMALLEST_SECONDS:
        return 0
    return math.ceil(math.log(seconds / SMALLEST_SECONDS) / math.log(GROWTH) - 1e-9)


def _upper(bucket: int) -> float:
    return float(SMALLEST_SECONDS * GROWTH**bucket)
