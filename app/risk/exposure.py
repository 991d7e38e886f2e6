"""Exposure: how much of the site lies in the way of each peril, 0-100.

A weighted sum of factors in percent, except for the sea: it reaches a site that is
both near the shore and low, so those two multiply.
"""

from app.risk.factor import (
    BASEMENT,
    COLD_GROUND,
    FAR_FROM_RIVER,
    HILLSIDE,
    INLAND,
    LOW_GROUND,
    NEAR_RIVER,
    PEOPLE,
    SEA_LEVEL_GROUND,
    SHORE,
    STORM_COAST,
    TALL,
    WARM_GROUND,
    WILDLAND,
    FactorScores,
)
from app.risk.score import Factor, Score, both, weighted
from app.risk.types import RiskType

EXPOSURE_PERCENTS: dict[RiskType, tuple[tuple[int, Factor], ...]] = {
    RiskType.EXTREME_HEAT: ((60, PEOPLE), (40, WARM_GROUND)),
    RiskType.EXTREME_COLD: ((60, COLD_GROUND), (40, INLAND)),
    RiskType.DROUGHT: ((50, PEOPLE), (50, FAR_FROM_RIVER)),
    RiskType.RIVER_FLOOD: ((60, NEAR_RIVER), (40, LOW_GROUND)),
    RiskType.URBAN_FLOOD: ((50, PEOPLE), (30, LOW_GROUND), (20, BASEMENT)),
    RiskType.TYPHOON: ((60, STORM_COAST), (40, TALL)),
    RiskType.WILDFIRE: ((60, WILDLAND), (40, HILLSIDE)),
    RiskType.WATER_STRESS: ((70, PEOPLE), (30, FAR_FROM_RIVER)),
}


def exposure_score(risk_type: RiskType, factors: FactorScores) -> Score:
    """Return the exposure to one peril, 0-100, or what is missing for it.

    sea_level_rise: SHORE x SEA_LEVEL_GROUND / 100. Every other peril: the sum of
    percent x factor / 100 over its row of EXPOSURE_PERCENTS.
    """
    if risk_type is RiskType.SEA_LEVEL_RISE:
        return both(factors[SHORE], factors[SEA_LEVEL_GROUND])
    return weighted((percent, factors[factor]) for percent, factor in EXPOSURE_PERCENTS[risk_type])
