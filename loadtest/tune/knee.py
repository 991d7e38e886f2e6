"""The knee of one sweep: the smallest size that gives what the best one does.

Beyond it more connections buy no throughput, only memory and waiting inside the server.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

# Within this share of the best counts as as good: a third of it is left for noise, so that
# the choice stays within 5 per cent.
TOLERANCE = 0.03
# Of two rounds one may have met a disturbed machine, and nothing tells which; with three, the
# noise of even the shortest sweep (four sizes) is estimated from six independent differences.
MIN_ROUNDS = 3
CONFIDENCE_PERCENT = 90
_DRAWS = 4000
# A size that answered nothing in a round has no logarithm.
_LEAST = 1e-3


@dataclass(frozen=True, slots=True)
class Knee:
    """The chosen size and the sizes that hold the knee in 90 of 100 sweeps; None: not measured.

    `larger` is the highest throughput of a larger size, None where none was measured;
    `larger_ruled_out`: no larger size gives more than the tolerance, with that confidence.
    """

    size: int
    rounds: int
    interval: tuple[int, int] | None
    best_size: int
    best: float
    at_knee: float
    largest_size: int
    larger: float | None
    larger_ruled_out: bool

    @property
    def share_percent(self) -> float:
        """Return the knee's throughput in per cent of the best."""
        return 100 * self.at_knee / self.best if self.best else 0.0

    @property
    def at_edge(self) -> bool:
        """Return True if no larger size was measured."""
        return self.larger is None


@dataclass(frozen=True, slots=True)
class Sweep:
    """Throughputs of one stage: sizes ascending, the same rounds (at least one) of each."""

    sizes: Sequence[int]
    repeats: Sequence[Sequence[float]]

    def chosen(self) -> int:
        """Return the smallest size within the tolerance of the best."""
        return self.sizes[self._first_lacking_at_most(0.0)]

    def best(self) -> int:
        """Return the size with the highest mean."""
        means = self._log_means()
        return self.sizes[max(range(len(means)), key=means.__getitem__)]

    def knee(self) -> Knee:
        """Return the choice with its uncertainty."""
        means = [math.exp(one) for one in self._log_means()]
        by_size = dict(zip(self.sizes, means, strict=True))
        chosen, best = self.chosen(), self.best()
        larger = [by_size[size] for size in self.sizes if size > chosen]
        rounds = len(self.repeats[0])
        margin = self._margin() if rounds >= MIN_ROUNDS and len(self.sizes) > 1 else None
        interval, ruled_out = None, False
        if margin is not None:
            low = self.sizes[self._first_lacking_at_most(margin)]
            high = self.sizes[self._first_lacking_at_most(-margin)]
            interval = (low, high)
            ruled_out = bool(larger) and math.log(max(larger)) + math.log(
                1 - TOLERANCE
            ) + margin <= math.log(by_size[chosen])
        return Knee(
            chosen,
            rounds,
            interval,
            best,
            by_size[best],
            by_size[chosen],
            self.sizes[-1],
            max(larger, default=None),
            ruled_out,
        )

    def _log_means(self) -> list[float]:
        return [fmean(one) for one in self._logs()]

    def _logs(self) -> list[list[float]]:
        return [[math.log(max(one, _LEAST)) for one in group] for group in self.repeats]

    def _first_lacking_at_most(self, margin: float) -> int:
        """Return the index of the smallest size that lacks at most the tolerance and `margin`.

        It lacks in comparison with every other size; the last one where none is that good.
        """
        means = self._log_means()
        allowed = margin - math.log(1 - TOLERANCE)
        for index, mean in enumerate(means):
            if all(other - mean <= allowed for at, other in enumerate(means) if at != index):
                return index
        return len(means) - 1

    def _margin(self) -> float:
        """Return what any two sizes' log means may be off by, all pairs at once.

        Tukey's honest significant difference over sizes x rounds: a drift of the machine that
        meets a whole round cancels. Source: J. W. Tukey, "The problem of multiple
        comparisons" (1953).
        """
        logs, means = self._logs(), self._log_means()
        rounds = len(logs[0])
        of_round = [fmean(group[number] for group in logs) for number in range(rounds)]
        whole = fmean(of_round)
        squares = sum(
            (group[number] - mean - of_round[number] + whole) ** 2
            for group, mean in zip(logs, means, strict=True)
            for number in range(rounds)
        )
        freedom = (len(logs) - 1) * (rounds - 1)
        noise = math.sqrt(squares / freedom)
        return _studentized_range(len(logs), freedom) * noise / math.sqrt(rounds)


@lru_cache
def _studentized_range(groups: int, freedom: int) -> float:
    """Return the quantile of the studentized range, by drawing; the same at every call."""
    dice = random.Random(1)  # noqa: S311  # a quantile, not a secret
    drawn = []
    for _ in range(_DRAWS):
        normal = [dice.gauss(0, 1) for _ in range(groups)]
        noise = math.sqrt(dice.gammavariate(freedom / 2, 2) / freedom)
        drawn.append((max(normal) - min(normal)) / noise)
    return sorted(drawn)[_DRAWS * CONFIDENCE_PERCENT // 100]
