"""Figures of repeated measurements: percentiles, spread, and intervals by resampling."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
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


def resampled(
    groups: Sequence[Sequence[float]],
    statistic: Callable[[list[float]], float],
    *,
    times: int = 2000,
    seed: int = 1,
) -> list[float]:
    """Return `statistic` of the groups' means over bootstrap resamples of every group.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife" (1979). Fixed seed:
    the same measurements give the same interval.
    """
    dice = random.Random(seed)  # noqa: S311  # resampling, not a secret
    return [
        statistic([_mean(dice.choices(group, k=len(group))) for group in groups])
        for _ in range(times)
    ]


def interval(values: Sequence[float], percent: float = 90) -> tuple[float, float]:
    """Return the central interval that holds `percent` of the values."""
    tail = (100 - percent) / 2
    return percentile(values, tail), percentile(values, 100 - tail)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
