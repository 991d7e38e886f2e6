"""The words of the risk model: perils, scenarios, levels, and what goes in and out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

YEARS = range(2021, 2101)
POPULATION_LAST_YEAR = 2050


class RiskType(StrEnum):
    """The nine perils, in the order in which results are given."""

    EXTREME_HEAT = "extreme_heat"
    EXTREME_COLD = "extreme_cold"
    DROUGHT = "drought"
    RIVER_FLOOD = "river_flood"
    URBAN_FLOOD = "urban_flood"
    SEA_LEVEL_RISE = "sea_level_rise"
    TYPHOON = "typhoon"
    WILDFIRE = "wildfire"
    WATER_STRESS = "water_stress"


class Scenario(StrEnum):
    """Shared socio-economic pathways, from least to most warming."""

    SSP126 = "SSP126"
    SSP245 = "SSP245"
    SSP370 = "SSP370"
    SSP585 = "SSP585"


class RiskLevel(StrEnum):
    """Five bands of the integrated risk, each 20 points wide."""

    VERY_LOW = "very_low"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    VERY_HIGH = "very_high"


class Structure(StrEnum):
    """What carries the building."""

    WOOD = "wood"
    MASONRY = "masonry"
    STEEL = "steel"
    REINFORCED_CONCRETE = "reinforced_concrete"


@dataclass(frozen=True, slots=True)
class Building:
    """The building at a site; None means that the input is not known.

    `structure` is one of `Structure`; `storeys` counts from the ground up; distances
    and elevation (above mean sea level, may be negative) are in metres.
    """

    structure: str | None
    storeys: int | None
    built_year: int | None
    has_basement: bool | None
    elevation_m: float | None
    river_distance_m: float | None
    coast_distance_m: float | None


@dataclass(frozen=True, slots=True)
class SiteInputs:
    """What is read once per site: its building and its people by calendar year."""

    building: Building | None
    population: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class ProbabilityBins:
    """Annual probability and damage rate (both 0-1) of each intensity bin, pairwise."""

    probabilities: tuple[float, ...]
    damage_rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """What is read per scenario and year; a peril without a key is a missing input.

    `hazard` holds scores of 0-100.
    """

    year: int
    hazard: Mapping[RiskType, float]
    probability: Mapping[RiskType, ProbabilityBins]


@dataclass(frozen=True, slots=True)
class AssetTerms:
    """What is at stake: asset value (money, >= 0) and the insured share of it (0-1).

    Raises ValueError naming the field, the value and the rule.
    """

    asset_value: float
    insurance_coverage_rate: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.asset_value) and self.asset_value >= 0):
            raise ValueError(f"asset_value={self.asset_value}: must be a finite number >= 0")
        if not 0 <= self.insurance_coverage_rate <= 1:
            raise ValueError(
                f"insurance_coverage_rate={self.insurance_coverage_rate}: must lie in 0..1"
            )


@dataclass(frozen=True, slots=True)
class RiskResult:
    """One peril of one task. A number that is not available is None, never zero.

    Scores and `integrated_risk` are 0-100; `base_aal` and `final_aal` are shares of the
    asset value per year (0-1 and 0-1.1); `expected_loss` is money per year. The three
    `*_missing` tuples name the inputs that were lacking for each group of numbers.
    """

    risk_type: RiskType
    exposure_score: float | None
    exposure_missing: tuple[str, ...]
    vulnerability_score: float | None
    vulnerability_missing: tuple[str, ...]
    hazard_score: float | None
    base_aal: float | None
    final_aal: float | None
    expected_loss: float | None
    integrated_risk: float | None
    risk_level: RiskLevel | None
    aal_missing: tuple[str, ...]
