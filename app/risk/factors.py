"""The sub-scores of 0-100 that exposure and vulnerability are made of.

A score knows what it lacks. Each factor is a published table of points: read between them
linearly, flat beyond them. 100 is always the worse end for the perils that use the factor.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.risk.types import POPULATION_LAST_YEAR, Building, SiteInputs, Structure


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


def _by_structure(wood: int, masonry: int, steel: int, concrete: int) -> Table:
    return Table(
        {
            Structure.WOOD: float(wood),
            Structure.MASONRY: float(masonry),
            Structure.STEEL: float(steel),
            Structure.REINFORCED_CONCRETE: float(concrete),
        }
    )


LOG10_PEOPLE = Curve((2, 0), (7, 100))


def _log_people(population: float) -> float:
    """0 at 100 people or fewer, 20 more per tenfold, 100 at ten million."""
    return LOG10_PEOPLE(math.log10(population)) if population > 0 else 0.0


# Elevation above sea level, metres.
LOW_GROUND = Factor(
    "building.elevation_m", Curve((0, 100), (10, 80), (50, 40), (200, 10), (500, 0))
)
SEA_LEVEL_GROUND = Factor(
    "building.elevation_m", Curve((0, 100), (2, 90), (5, 60), (10, 20), (20, 0))
)
WARM_GROUND = Factor("building.elevation_m", Curve((0, 100), (1000, 0)))
COLD_GROUND = Factor("building.elevation_m", Curve((0, 20), (200, 40), (1000, 100)))
HILLSIDE = Factor("building.elevation_m", Curve((0, 20), (100, 50), (400, 100)))

# Distance to the nearest river, metres.
NEAR_RIVER = Factor(
    "building.river_distance_m", Curve((0, 100), (200, 80), (1000, 40), (5000, 5), (20000, 0))
)
FAR_FROM_RIVER = Factor(
    "building.river_distance_m", Curve((0, 20), (1000, 40), (5000, 70), (20000, 100))
)

# Distance to the coast, metres.
SHORE = Factor(
    "building.coast_distance_m", Curve((0, 100), (500, 80), (2000, 40), (10000, 5), (20000, 0))
)
STORM_COAST = Factor(
    "building.coast_distance_m",
    Curve((0, 100), (10000, 80), (50000, 50), (150000, 20), (300000, 10)),
)
INLAND = Factor("building.coast_distance_m", Curve((0, 0), (100000, 100)))

# Storeys above ground: a tall building catches wind and pumps its water; a low one
# has a larger share of its value within reach of a flood.
TALL = Factor("building.storeys", Curve((1, 20), (5, 40), (20, 80), (50, 100)))
LOW_RISE = Factor("building.storeys", Curve((1, 100), (2, 80), (5, 50), (10, 30), (30, 10)))

BASEMENT = Factor("building.has_basement", Table({False: 0.0, True: 100.0}))

# What the frame and envelope do under heat and cold, in shrinking soil, water, wind, fire.
THERMAL_FRAME = Factor("building.structure", _by_structure(60, 50, 80, 60))
FOUNDATION = Factor("building.structure", _by_structure(50, 80, 30, 30))
WET_FRAME = Factor("building.structure", _by_structure(90, 70, 40, 30))
WIND_FRAME = Factor("building.structure", _by_structure(100, 60, 30, 20))
FIRE_FRAME = Factor("building.structure", _by_structure(100, 40, 50, 20))

# Years since construction, in the year that is assessed.
AGE = Factor("building.built_year", Curve((0, 10), (10, 20), (30, 50), (50, 80), (80, 100)))

# People in the site's cell: the sealed, heated, water-drinking city, and its opposite.
PEOPLE = Factor("population", _log_people)
WILDLAND = Factor("population", lambda population: 100.0 - _log_people(population))

SITE_FACTORS = (
    LOW_GROUND,
    SEA_LEVEL_GROUND,
    WARM_GROUND,
    COLD_GROUND,
    HILLSIDE,
    NEAR_RIVER,
    FAR_FROM_RIVER,
    SHORE,
    STORM_COAST,
    INLAND,
    TALL,
    LOW_RISE,
    BASEMENT,
    THERMAL_FRAME,
    FOUNDATION,
    WET_FRAME,
    WIND_FRAME,
    FIRE_FRAME,
)
FactorScores = Mapping[Factor, Score]

NO_BUILDING = Score(None, ("building",))


def site_factor_scores(building: Building | None) -> dict[Factor, Score]:
    """Return the factors that no year changes; without a building, each lacks `building`."""
    if building is None:
        return dict.fromkeys(SITE_FACTORS, NO_BUILDING)
    return {
        factor: factor.score(getattr(building, factor.input_name.removeprefix("building.")))
        for factor in SITE_FACTORS
    }


def year_factor_scores(site: SiteInputs, year: int) -> dict[Factor, Score]:
    """Return the factors that follow the calendar: the building's age and the population.

    Population is known to 2050; later years use 2050. Before its completion a
    building counts as new.
    """
    people = site.population.get(min(year, POPULATION_LAST_YEAR))
    return {
        AGE: _age(site.building, year),
        PEOPLE: PEOPLE.score(people),
        WILDLAND: WILDLAND.score(people),
    }


def _age(building: Building | None, year: int) -> Score:
    if building is None:
        return NO_BUILDING
    return AGE.score(None if building.built_year is None else year - building.built_year)
