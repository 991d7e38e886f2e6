"""The knee of one sweep: the smallest size that gives what the best one does.

Beyond it more connections buy no throughput, only memory and waiting inside the server. Its
uncertainty comes from resampling the repeats: how often another size would have been chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.spread import interval, resampled

# Within this share of the best counts as as good: a third of it is left for noise, so that
# the choice stays within 5 per cent.
TOLERANCE = 0.03


@dataclass(frozen=True, slots=True)
class Knee:
    """The chosen size, the range that holds it in 90 % of resamples, and how sure it is."""

    size: int
    low: float
    high: float
    confidence: float
    best_size: int
    best: float
    at_knee: float

    @property
    def share_percent(self) -> float:
        """Return the knee's throughput in per cent of the best."""
        return 100 * self.at_knee / self.best if self.best else 0.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Throughputs of one stage: sizes ascending, at least one repeat of each."""

    sizes: Sequence[int]
    repeats: Sequence[Sequence[float]]

    def chosen(self) -> int:
        """Return the smallest size within the tolerance of the best."""
        return self.sizes[_smallest_good(self._means())]

    def best(self) -> int:
        """Return the size with the highest mean."""
        means = self._means()
        return self.sizes[max(range(len(means)), key=means.__getitem__)]

    def knee(self) -> Knee:
        """Return the choice with its uncertainty."""
        by_size = dict(zip(self.sizes, self._means(), strict=True))
        drawn = [self.sizes[int(index)] for index in resampled(self.repeats, _chosen_index)]
        low, high = interval([float(size) for size in drawn])
        chosen, best = self.chosen(), self.best()
        confidence = Counter(drawn)[chosen] / len(drawn)
        return Knee(chosen, low, high, confidence, best, by_size[best], by_size[chosen])

    def _means(self) -> list[float]:
        return [sum(group) / len(group) for group in self.repeats]


def _chosen_index(means: list[float]) -> float:
    return float(_smallest_good(means))


def _smallest_good(means: Sequence[float]) -> int:
    enough = (1 - TOLERANCE) * max(means)
    return next(index for index, mean in enumerate(means) if mean >= enough)
