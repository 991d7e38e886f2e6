"""The risk model a second time, straight from its published formulas.

Written to be read beside the formulas rather than to be fast, and without importing the
app: what the database holds is compared with this.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

Points = list[tuple[float, float]]
STRUCTURES = ["wood", "masonry", "steel", "reinforced_concrete"]
PERILS = [
    "extreme_heat",
    "extreme_cold",
    "drought",
    "river_flood",
    "urban_flood",
    "sea_level_rise",
    "typhoon",
    "wildfire",
    "water_stress",
]


def line(x: float, points: Points) -> float:
    """Return the piecewise-linear value at x, flat beyond both ends."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (x - x0) * (y1 - y0) / (x1 - x0)
    return points[-1][1]


@dataclass(frozen=True)
class Expected:
    """The numbers of one result."""

    exposure: float
    vulnerability: float
    base_aal: float
    final_aal: float
    expected_loss: float
    integrated: float
    level: str


def exposures(b: dict[str, Any], people: float) -> dict[str, float]:
    """Return the exposure to each peril, 0-100."""
    elevation, river, coast = b["elevation_m"], b["river_distance_m"], b["coast_distance_m"]
    crowd = line(math.log10(people), [(2, 0), (7, 100)]) if people > 0 else 0.0
    low = line(elevation, [(0, 100), (10, 80), (50, 40), (200, 10), (500, 0)])
    dry = line(river, [(0, 20), (1000, 40), (5000, 70), (20000, 100)])
    near_river = line(river, [(0, 100), (200, 80), (1000, 40), (5000, 5), (20000, 0)])
    shore = line(coast, [(0, 100), (500, 80), (2000, 40), (10000, 5), (20000, 0)])
    sea_level = line(elevation, [(0, 100), (2, 90), (5, 60), (10, 20), (20, 0)])
    storm = line(coast, [(0, 100), (10000, 80), (50000, 50), (150000, 20), (300000, 10)])
    tall = line(b["storeys"], [(1, 20), (5, 40), (20, 80), (50, 100)])
    return {
        "extreme_heat": 0.6 * crowd + 0.4 * line(elevation, [(0, 100), (1000, 0)]),
        "extreme_cold": 0.6 * line(elevation, [(0, 20), (200, 40), (1000, 100)])
        + 0.4 * line(coast, [(0, 0), (100000, 100)]),
        "drought": 0.5 * crowd + 0.5 * dry,
        "river_flood": 0.6 * near_river + 0.4 * low,
        "urban_flood": 0.5 * crowd + 0.3 * low + 0.2 * (100 if b["has_basement"] else 0),
        "sea_level_rise": shore * sea_level / 100,
        "typhoon": 0.6 * storm + 0.4 * tall,
        "wildfire": 0.6 * (100 - crowd) + 0.4 * line(elevation, [(0, 20), (100, 50), (400, 100)]),
        "water_stress": 0.7 * crowd + 0.3 * dry,
    }


def vulnerabilities(b: dict[str, Any], year: int, exposed: dict[str, float]) -> dict[str, float]:
    """Return the vulnerability to each peril, 0-100."""

    def frame(*scores: int) -> float:
        return scores[STRUCTURES.index(b["structure"])]

    age = line(year - b["built_year"], [(0, 10), (10, 20), (30, 50), (50, 80), (80, 100)])
    wet, cellar = frame(90, 70, 40, 30), 100 if b["has_basement"] else 0
    reach = line(b["storeys"], [(1, 100), (2, 80), (5, 50), (10, 30), (30, 10)])
    tall = line(b["storeys"], [(1, 20), (5, 40), (20, 80), (50, 100)])
    thermal = 0.4 * frame(60, 50, 80, 60) + 0.4 * age
    own = {
        "extreme_heat": (thermal, 0.2),
        "extreme_cold": (thermal, 0.2),
        "drought": (0.4 * frame(50, 80, 30, 30) + 0.3 * age, 0.3),
        "river_flood": (0.3 * wet + 0.15 * reach + 0.25 * cellar + 0.1 * age, 0.2),
        "urban_flood": (0.15 * wet + 0.15 * reach + 0.4 * cellar + 0.1 * age, 0.2),
        "sea_level_rise": (0.35 * wet + 0.1 * reach + 0.2 * cellar + 0.15 * age, 0.2),
        "typhoon": (0.45 * frame(100, 60, 30, 20) + 0.35 * age, 0.2),
        "wildfire": (0.6 * frame(100, 40, 50, 20) + 0.2 * age, 0.2),
        "water_stress": (0.3 * tall + 0.3 * age, 0.4),
    }
    return {peril: score + share * exposed[peril] for peril, (score, share) in own.items()}


def level(integrated: float) -> str:
    """Return the band of an integrated risk; a limit belongs to the band above."""
    names = ["very_low", "low", "medium", "high", "very_high"]
    return names[min(int(integrated // 20), 4)]


def expected(
    building: dict[str, Any],
    people: float,
    year: int,
    hazard: dict[str, float],
    bins: dict[str, list[tuple[float, float]]],
    asset_value: float,
    insured: float,
) -> dict[str, Expected]:
    """Return what the results of one site, scenario and year must be, by peril."""
    exposed = exposures(building, people)
    vulnerable = vulnerabilities(building, year, exposed)
    results = {}
    for peril in PERILS:
        e, v = exposed[peril], vulnerable[peril]
        base = sum(probability * rate for probability, rate in bins[peril])
        final = base * (0.9 + 0.2 * v / 100) * (1 - insured)
        integrated = hazard[peril] * e * v / 10_000
        results[peril] = Expected(
            e, v, base, final, final * asset_value, integrated, level(integrated)
        )
    return results
