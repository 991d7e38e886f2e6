"""The risk model: one task's inputs in, nine results out. Pure: no database, no clock."""

from bisect import bisect_right

from app.risk.factors import (
    AGE,
    BASEMENT,
    COLD_GROUND,
    FAR_FROM_RIVER,
    FIRE_FRAME,
    FOUNDATION,
    HILLSIDE,
    INLAND,
    LOW_GROUND,
    LOW_RISE,
    NEAR_RIVER,
    PEOPLE,
    SEA_LEVEL_GROUND,
    SHORE,
    STORM_COAST,
    TALL,
    THERMAL_FRAME,
    WARM_GROUND,
    WET_FRAME,
    WILDLAND,
    WIND_FRAME,
    Factor,
    FactorScores,
    Score,
    both,
    site_factor_scores,
    union,
    weighted,
    year_factor_scores,
)
from app.risk.types import (
    AssetTerms,
    ProbabilityBins,
    RiskLevel,
    RiskResult,
    RiskType,
    SiteInputs,
    TaskInputs,
)

# How much of the site lies in the way of each peril: a weighted sum of factors in percent. Except
# for the sea: it reaches a site that is both near the shore and low, so those two multiply.
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
# How badly the building takes each peril that reaches it. The rest to 100 per cent is the
# exposure itself.
VULNERABILITY_PERCENTS: dict[RiskType, tuple[tuple[int, Factor], ...]] = {
    RiskType.EXTREME_HEAT: ((40, THERMAL_FRAME), (40, AGE)),
    RiskType.EXTREME_COLD: ((40, THERMAL_FRAME), (40, AGE)),
    RiskType.DROUGHT: ((40, FOUNDATION), (30, AGE)),
    RiskType.RIVER_FLOOD: ((30, WET_FRAME), (15, LOW_RISE), (25, BASEMENT), (10, AGE)),
    RiskType.URBAN_FLOOD: ((15, WET_FRAME), (15, LOW_RISE), (40, BASEMENT), (10, AGE)),
    RiskType.SEA_LEVEL_RISE: ((35, WET_FRAME), (10, LOW_RISE), (20, BASEMENT), (15, AGE)),
    RiskType.TYPHOON: ((45, WIND_FRAME), (35, AGE)),
    RiskType.WILDFIRE: ((60, FIRE_FRAME), (20, AGE)),
    RiskType.WATER_STRESS: ((30, TALL), (30, AGE)),
}

EXPOSURE_PERCENT: dict[RiskType, int] = {
    risk_type: 100 - sum(percent for percent, _ in parts)
    for risk_type, parts in VULNERABILITY_PERCENTS.items()
}
LEVEL_LIMITS = (20.0, 40.0, 60.0, 80.0)
LEVELS = tuple(RiskLevel)
YearScores = tuple[tuple[RiskType, Score, Score], ...]
NO_HAZARD = ("hazard",)
NO_PROBABILITY = ("probability",)


class SiteModel:
    """One site, ready to be assessed for many tasks.

    Factors that no year changes are scored once, exposure and vulnerability once per
    year. Two threads may share it: at worst they score the same year twice.
    """

    def __init__(self, site: SiteInputs) -> None:
        self._site = site
        self._site_factors = site_factor_scores(site.building)
        self._years: dict[int, YearScores] = {}

    def assess(self, task: TaskInputs, terms: AssetTerms) -> tuple[RiskResult, ...]:
        """Return the nine results of one task, in the order of RiskType."""
        return tuple(
            _result(risk_type, exposure, vulnerability, task, terms)
            for risk_type, exposure, vulnerability in self._year_scores(task.year)
        )

    def _year_scores(self, year: int) -> YearScores:
        scores = self._years.get(year)
        if scores is None:
            scores = self._years[year] = self._score_year(year)
        return scores

    def _score_year(self, year: int) -> YearScores:
        factors = self._site_factors | year_factor_scores(self._site, year)
        scores = []
        for risk_type in RiskType:
            exposure = exposure_score(risk_type, factors)
            vulnerability = vulnerability_score(risk_type, factors, exposure)
            scores.append((risk_type, exposure, vulnerability))
        return tuple(scores)


def assess_task(site: SiteInputs, task: TaskInputs, terms: AssetTerms) -> tuple[RiskResult, ...]:
    """Return the nine results of one task, in the order of RiskType.

    For more than one task of a site, build a `SiteModel` once and use its `assess`.
    """
    return SiteModel(site).assess(task, terms)


def _result(
    risk_type: RiskType,
    exposure: Score,
    vulnerability: Score,
    task: TaskInputs,
    terms: AssetTerms,
) -> RiskResult:
    hazard = task.hazard.get(risk_type)
    bins = task.probability.get(risk_type)
    base = None if bins is None else base_aal(bins)
    final = _final(base, vulnerability, terms)
    risk = _integrated(hazard, exposure, vulnerability)
    return RiskResult(
        risk_type=risk_type,
        exposure_score=exposure.value,
        exposure_missing=exposure.missing,
        vulnerability_score=vulnerability.value,
        vulnerability_missing=vulnerability.missing,
        hazard_score=hazard,
        base_aal=base,
        final_aal=final,
        expected_loss=None if final is None else expected_loss(final, terms),
        integrated_risk=risk,
        risk_level=None if risk is None else risk_level(risk),
        # The vulnerability already names what the exposure lacks.
        aal_missing=union(
            NO_HAZARD if hazard is None else (),
            NO_PROBABILITY if bins is None else (),
            vulnerability.missing,
        ),
    )


def _final(base: float | None, vulnerability: Score, terms: AssetTerms) -> float | None:
    if base is None or vulnerability.value is None:
        return None
    return final_aal(base, vulnerability.value, terms.insurance_coverage_rate)


def _integrated(hazard: float | None, exposure: Score, vulnerability: Score) -> float | None:
    if hazard is None or exposure.value is None or vulnerability.value is None:
        return None
    return integrated_risk(hazard, exposure.value, vulnerability.value)


def exposure_score(risk_type: RiskType, factors: FactorScores) -> Score:
    """Return the exposure to one peril, 0-100, or what is missing for it.

    sea_level_rise: SHORE x SEA_LEVEL_GROUND / 100. Every other peril: the sum of
    percent x factor / 100 over its row of EXPOSURE_PERCENTS.
    """
    if risk_type is RiskType.SEA_LEVEL_RISE:
        return both(factors[SHORE], factors[SEA_LEVEL_GROUND])
    return weighted((percent, factors[factor]) for percent, factor in EXPOSURE_PERCENTS[risk_type])


def vulnerability_score(risk_type: RiskType, factors: FactorScores, exposure: Score) -> Score:
    """Return the vulnerability to one peril, 0-100, or what is missing for it.

    sum of percent x factor / 100 over the peril's row of VULNERABILITY_PERCENTS, plus
    the remaining percent x exposure / 100. What the exposure lacks is lacking here too.
    """
    parts = [(percent, factors[factor]) for percent, factor in VULNERABILITY_PERCENTS[risk_type]]
    return weighted([*parts, (EXPOSURE_PERCENT[risk_type], exposure)])


def integrated_risk(hazard: float, exposure: float, vulnerability: float) -> float:
    """Return H x E x V / 10,000, 0-100, from three scores of 0-100."""
    return hazard * exposure * vulnerability / 10_000


def risk_level(risk: float) -> RiskLevel:
    """Return the level of an integrated risk; a limit belongs to the level above it.

    Raises ValueError outside 0-100 (also for NaN): then an input score was out of range.
    """
    if not 0 <= risk <= 100:
        raise ValueError(f"integrated risk {risk} is outside 0..100; check the hazard score")
    return LEVELS[bisect_right(LEVEL_LIMITS, risk)]


def base_aal(bins: ProbabilityBins) -> float:
    """Return the sum over bins of probability x damage rate, a share per year (0-1).

    Raises ValueError when the two tuples differ in length.
    """
    pairs = zip(bins.probabilities, bins.damage_rates, strict=True)
    return sum(probability * damage_rate for probability, damage_rate in pairs)


def final_aal(base: float, vulnerability: float, insurance_coverage_rate: float) -> float:
    """Return base x (0.9 + 0.2 x V/100) x (1 - insurance coverage rate), 0-1.1.

    V is the vulnerability score, 0-100: it moves the base by a tenth either way.
    """
    return base * (0.9 + 0.2 * vulnerability / 100) * (1 - insurance_coverage_rate)


def expected_loss(final: float, terms: AssetTerms) -> float:
    """Return final AAL x asset value: uninsured money lost per average year."""
    return final * terms.asset_value
