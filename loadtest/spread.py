"""Figures of repeated measurements: percentiles and spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


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

    @property
    def percent(self) -> float:
        """Return the range as a share of the median, in per cent."""
        return 100 * (self.maximum - self.minimum) / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    return Spread(len(values), median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the percentile by linear interpolation (as numpy's default); NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
