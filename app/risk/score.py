"""Scores of 0-100 that know what they lack, and the curves and sums they come from."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Score:
    """A score of 0-100, or None with the names of the inputs that are missing."""

    value: float | None
    missing: tuple[str, ...] = ()


class Curve:
    """A piecewise-linear function through (x, y) points, constant beyond both ends.

    The points are given with x strictly rising.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        self._xs = tuple(float(x) for x, _ in points)
        self._ys = tuple(float(y) for _, y in points)

    def __call__(self, x: float) -> float:
        """Return y at x."""
        right = bisect_right(self._xs, x)
        if right == 0:
            return self._ys[0]
        if right == len(self._xs):
            return self._ys[-1]
        x0, x1 = self._xs[right - 1], self._xs[right]
        y0, y1 = self._ys[right - 1], self._ys[right]
        return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))


class Table:
    """A function given by enumeration; an unknown key is a ValueError that lists the known."""

    def __init__(self, rows: Mapping[Any, float]) -> None:
        self._rows = rows

    def __call__(self, key: object) -> float:
        """Return the score of a key."""
        try:
            return self._rows[key]
        except KeyError:
            known = ", ".join(str(row) for row in self._rows)
            raise ValueError(f"no score for {key!r}: must be one of {known}") from None


@dataclass(frozen=True, eq=False)
class Factor:
    """One sub-score of 0-100: the input it is read from and the curve it follows.

    Compared and hashed by identity, so that it can be a cheap dictionary key.
    """

    input_name: str
    curve: Callable[[Any], float]

    def score(self, value: Any) -> Score:
        """Return the score of an input value; None is a missing input."""
        if value is None:
            return Score(None, (self.input_name,))
        return Score(self.curve(value))


Part = tuple[int, Score]


def weighted(parts: Iterable[Part]) -> Score:
    """Return sum(percent x score) / 100; missing when a part is missing.

    Percents are integers that sum to 100: then the result cannot leave 0-100, and
    cannot fall when a part rises, whatever the rounding.
    """
    total = 0.0
    missing: dict[str, None] = {}
    for percent, score in parts:
        if score.value is None:
            missing.update(dict.fromkeys(score.missing))
        else:
            total += percent * score.value
    return Score(None, tuple(missing)) if missing else Score(total / 100)


def both(first: Score, second: Score) -> Score:
    """Return first x second / 100, for perils that need the two together."""
    if first.value is None or second.value is None:
        return Score(None, union(first.missing, second.missing))
    return Score(first.value * second.value / 100)


def union(*names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names without repetition, in the order of first mention."""
    return tuple(dict.fromkeys(name for group in names for name in group))
