"""The formulas at points worked out by hand."""

import pytest

from app.risk import AssetTerms, ProbabilityBins, RiskLevel, RiskType, SiteModel, assess_task
from app.risk.model import (
    EXPOSURE_PERCENT,
    EXPOSURE_PERCENTS,
    VULNERABILITY_PERCENTS,
    base_aal,
    expected_loss,
    final_aal,
    integrated_risk,
    risk_level,
)
from tests.unit.risk.risk_strategies import KNOWN_SITE, TERMS, known_task

# Worked out from the tables with 100,000 people (60 points), 50 m up, 1 km from a river
# and 10 km from the coast, masonry, five storeys, basement, 30 years old (50 points).
BY_HAND = {
    # exposure: 0.6 x 60 + 0.4 x 95; vulnerability: 0.4 x 50 + 0.4 x 50 + 0.2 x E
    RiskType.EXTREME_HEAT: (74.0, 54.8),
    # 0.6 x 25 + 0.4 x 10; 0.4 x 50 + 0.4 x 50 + 0.2 x E
    RiskType.EXTREME_COLD: (19.0, 43.8),
    # 0.5 x 60 + 0.5 x 40; 0.4 x 80 + 0.3 x 50 + 0.3 x E
    RiskType.DROUGHT: (50.0, 62.0),
    # 0.6 x 40 + 0.4 x 40; 0.3 x 70 + 0.15 x 50 + 0.25 x 100 + 0.1 x 50 + 0.2 x E
    RiskType.RIVER_FLOOD: (40.0, 66.5),
    # 0.5 x 60 + 0.3 x 40 + 0.2 x 100; 0.15 x 70 + 0.15 x 50 + 0.4 x 100 + 0.1 x 50 + 0.2 x E
    RiskType.URBAN_FLOOD: (62.0, 75.4),
    # 5 x 0 / 100; 0.35 x 70 + 0.1 x 50 + 0.2 x 100 + 0.15 x 50 + 0.2 x E
    RiskType.SEA_LEVEL_RISE: (0.0, 57.0),
    # 0.6 x 80 + 0.4 x 40; 0.45 x 60 + 0.35 x 50 + 0.2 x E
    RiskType.TYPHOON: (64.0, 57.3),
    # 0.6 x 40 + 0.4 x 35; 0.6 x 40 + 0.2 x 50 + 0.2 x E
    RiskType.WILDFIRE: (38.0, 41.6),
    # 0.7 x 60 + 0.3 x 40; 0.3 x 40 + 0.3 x 50 + 0.4 x E
    RiskType.WATER_STRESS: (54.0, 48.6),
}


def test_results_come_in_the_order_of_the_risk_types() -> None:
    results = assess_task(KNOWN_SITE, known_task(), TERMS)
    assert [result.risk_type for result in results] == list(RiskType)


@pytest.mark.parametrize("risk_type", RiskType)
def test_exposure_and_vulnerability_are_what_the_tables_say(risk_type: RiskType) -> None:
    results = {result.risk_type: result for result in assess_task(KNOWN_SITE, known_task(), TERMS)}
    found = results[risk_type]
    assert (found.exposure_score, found.vulnerability_score) == pytest.approx(BY_HAND[risk_type])


def test_loss_and_integrated_risk_of_a_typhoon() -> None:
    results = {result.risk_type: result for result in assess_task(KNOWN_SITE, known_task(), TERMS)}
    typhoon = results[RiskType.TYPHOON]
    assert typhoon.base_aal == pytest.approx(0.1 * 0.05 + 0.02 * 0.5)
    assert typhoon.final_aal == pytest.approx(0.015 * (0.9 + 0.2 * 0.573) * 0.75)
    assert typhoon.expected_loss == pytest.approx(11_414.25)
    assert typhoon.integrated_risk == pytest.approx(50 * 64 * 57.3 / 10_000)
    assert typhoon.risk_level is RiskLevel.VERY_LOW


def test_base_aal_refuses_unequal_bins() -> None:
    with pytest.raises(ValueError, match="shorter"):
        base_aal(ProbabilityBins((0.1, 0.2), (0.5,)))


@pytest.mark.parametrize(("vulnerability", "factor"), [(0.0, 0.9), (50.0, 1.0), (100.0, 1.1)])
def test_vulnerability_moves_the_loss_by_a_tenth(vulnerability: float, factor: float) -> None:
    assert final_aal(0.02, vulnerability, 0.0) == pytest.approx(0.02 * factor)


def test_full_insurance_leaves_no_loss() -> None:
    assert final_aal(0.5, 80.0, 1.0) == 0.0


def test_expected_loss_is_a_share_of_the_asset_value() -> None:
    assert expected_loss(0.01, AssetTerms(5_000_000.0, 0.0)) == pytest.approx(50_000.0)


def test_integrated_risk_of_three_full_scores_is_exactly_100() -> None:
    assert integrated_risk(100.0, 100.0, 100.0) == 100.0


@pytest.mark.parametrize(
    ("risk", "level"),
    [
        (0.0, RiskLevel.VERY_LOW),
        (19.999, RiskLevel.VERY_LOW),
        (20.0, RiskLevel.LOW),
        (39.999, RiskLevel.LOW),
        (40.0, RiskLevel.MEDIUM),
        (59.999, RiskLevel.MEDIUM),
        (60.0, RiskLevel.HIGH),
        (79.999, RiskLevel.HIGH),
        (80.0, RiskLevel.VERY_HIGH),
        (100.0, RiskLevel.VERY_HIGH),
    ],
)
def test_a_level_starts_at_its_limit(risk: float, level: RiskLevel) -> None:
    assert risk_level(risk) is level


@pytest.mark.parametrize("risk", [-0.001, 100.001, float("nan"), float("inf")])
def test_no_level_outside_the_range(risk: float) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.100"):
        risk_level(risk)


@pytest.mark.parametrize("risk_type", EXPOSURE_PERCENTS)
def test_exposure_percents_sum_to_100(risk_type: RiskType) -> None:
    assert sum(percent for percent, _ in EXPOSURE_PERCENTS[risk_type]) == 100


@pytest.mark.parametrize("risk_type", RiskType)
def test_exposure_has_a_share_in_every_vulnerability(risk_type: RiskType) -> None:
    assert 0 < EXPOSURE_PERCENT[risk_type] < 100
    assert all(percent > 0 for percent, _ in VULNERABILITY_PERCENTS[risk_type])


def test_years_after_2050_use_the_population_of_2050() -> None:
    model = SiteModel(KNOWN_SITE)
    late = model.assess(known_task(2100), TERMS)
    assert late[0].exposure_score == pytest.approx(0.6 * 40 + 0.4 * 95)


@pytest.mark.parametrize(
    ("value", "rate", "field"),
    [
        (-1.0, 0.5, "asset_value"),
        (float("inf"), 0.5, "asset_value"),
        (float("nan"), 0.5, "asset_value"),
        (1.0, -0.1, "insurance_coverage_rate"),
        (1.0, 1.1, "insurance_coverage_rate"),
        (1.0, float("nan"), "insurance_coverage_rate"),
    ],
)
def test_impossible_terms_are_refused_by_name(value: float, rate: float, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        AssetTerms(value, rate)
