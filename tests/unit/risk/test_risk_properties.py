"""What holds for every building, site and task."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.risk import (
    AssetTerms,
    Building,
    ProbabilityBins,
    RiskResult,
    RiskType,
    SiteInputs,
    SiteModel,
    TaskInputs,
    assess_task,
)
from app.risk.model import LEVELS, base_aal, risk_level
from tests.unit.risk.risk_strategies import (
    TERMS,
    bins,
    buildings,
    constant_population,
    distances,
    known_task,
    populations,
    scores,
    sites,
    tasks,
    terms,
    years,
)

PEOPLE = constant_population(50_000.0)


def assess(building: Building, year: int = 2030) -> dict[RiskType, RiskResult]:
    results = assess_task(SiteInputs(building, PEOPLE), known_task(year), TERMS)
    return {result.risk_type: result for result in results}


def exposure(building: Building, risk_type: RiskType) -> float:
    score = assess(building)[risk_type].exposure_score
    assert score is not None
    return score


@given(sites, tasks, terms)
def test_every_number_is_there_and_in_its_range(
    site: SiteInputs, task: TaskInputs, asset: AssetTerms
) -> None:
    for result in assess_task(site, task, asset):
        assert result.exposure_missing + result.vulnerability_missing + result.aal_missing == ()
        assert result.exposure_score is not None
        assert 0 <= result.exposure_score <= 100
        assert result.vulnerability_score is not None
        assert 0 <= result.vulnerability_score <= 100
        assert result.integrated_risk is not None
        assert 0 <= result.integrated_risk <= 100
        assert result.final_aal is not None
        assert 0 <= result.final_aal <= 1.1
        assert result.expected_loss is not None
        assert 0 <= result.expected_loss <= 1.1 * asset.asset_value


@given(sites, tasks, terms)
def test_a_shared_site_model_gives_the_same_results(
    site: SiteInputs, task: TaskInputs, asset: AssetTerms
) -> None:
    model = SiteModel(site)
    assert model.assess(task, asset) == model.assess(task, asset) == assess_task(site, task, asset)


@given(buildings, distances, distances)
def test_nearer_to_the_sea_is_never_less_exposed_to_it(
    building: Building, one: float, other: float
) -> None:
    near, far = sorted((one, other))
    for risk_type in (RiskType.SEA_LEVEL_RISE, RiskType.TYPHOON):
        assert exposure(replace(building, coast_distance_m=near), risk_type) >= exposure(
            replace(building, coast_distance_m=far), risk_type
        )


@given(buildings, distances, distances)
def test_nearer_to_the_river_is_more_flood_and_less_drought(
    building: Building, one: float, other: float
) -> None:
    near, far = (replace(building, river_distance_m=metres) for metres in sorted((one, other)))
    assert exposure(near, RiskType.RIVER_FLOOD) >= exposure(far, RiskType.RIVER_FLOOD)
    assert exposure(near, RiskType.DROUGHT) <= exposure(far, RiskType.DROUGHT)
    assert exposure(near, RiskType.WATER_STRESS) <= exposure(far, RiskType.WATER_STRESS)


@given(buildings, st.floats(-500, 9000), st.floats(-500, 9000))
def test_higher_ground_is_less_wet_and_less_warm_but_colder(
    building: Building, one: float, other: float
) -> None:
    low, high = (replace(building, elevation_m=metres) for metres in sorted((one, other)))
    for risk_type in (RiskType.RIVER_FLOOD, RiskType.URBAN_FLOOD, RiskType.SEA_LEVEL_RISE):
        assert exposure(low, risk_type) >= exposure(high, risk_type)
    assert exposure(low, RiskType.EXTREME_HEAT) >= exposure(high, RiskType.EXTREME_HEAT)
    assert exposure(low, RiskType.EXTREME_COLD) <= exposure(high, RiskType.EXTREME_COLD)


@given(buildings, populations, populations)
def test_more_people_are_more_exposure_except_to_wildfire(
    building: Building, one: float, other: float
) -> None:
    few, many = (
        assess_task(SiteInputs(building, constant_population(people)), known_task(), TERMS)
        for people in sorted((one, other))
    )
    for less, more in zip(few, many, strict=True):
        assert less.exposure_score is not None
        assert more.exposure_score is not None
        if less.risk_type is RiskType.WILDFIRE:
            assert less.exposure_score >= more.exposure_score
        else:
            assert less.exposure_score <= more.exposure_score


@given(buildings, years, years)
def test_a_building_never_grows_less_vulnerable_with_age(
    building: Building, one: int, other: int
) -> None:
    early, late = sorted((one, other))
    for risk_type in RiskType:
        before = assess(building, early)[risk_type].vulnerability_score
        after = assess(building, late)[risk_type].vulnerability_score
        assert before is not None
        assert after is not None
        assert before <= after


@given(buildings)
def test_a_basement_makes_floods_worse(building: Building) -> None:
    dry = assess(replace(building, has_basement=False))
    wet = assess(replace(building, has_basement=True))
    for risk_type in (RiskType.RIVER_FLOOD, RiskType.URBAN_FLOOD, RiskType.SEA_LEVEL_RISE):
        less, more = dry[risk_type].vulnerability_score, wet[risk_type].vulnerability_score
        assert less is not None
        assert more is not None
        assert less < more


@given(buildings, scores, scores)
def test_more_hazard_is_never_less_risk(building: Building, one: float, other: float) -> None:
    site = SiteInputs(building, PEOPLE)
    mild, severe = (
        assess_task(site, known_task(hazard=hazard), TERMS) for hazard in sorted((one, other))
    )
    for less, more in zip(mild, severe, strict=True):
        assert less.integrated_risk is not None
        assert more.integrated_risk is not None
        assert less.integrated_risk <= more.integrated_risk


@given(sites, tasks, st.floats(0, 1), st.floats(0, 1))
def test_more_insurance_is_never_more_loss(
    site: SiteInputs, task: TaskInputs, one: float, other: float
) -> None:
    little, much = (assess_task(site, task, AssetTerms(1e6, rate)) for rate in sorted((one, other)))
    for more, less in zip(little, much, strict=True):
        assert more.expected_loss is not None
        assert less.expected_loss is not None
        assert more.expected_loss >= less.expected_loss


@given(bins)
def test_base_aal_lies_between_none_and_the_worst_bin(given_bins: ProbabilityBins) -> None:
    worst = max(given_bins.damage_rates)
    assert 0 <= base_aal(given_bins) <= worst * sum(given_bins.probabilities) + 1e-12


@given(scores, scores)
def test_levels_follow_the_risk(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert LEVELS.index(risk_level(low)) <= LEVELS.index(risk_level(high))


def test_an_unknown_structure_is_refused_with_the_known_ones() -> None:
    building = Building("straw", 1, 2000, False, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"'straw'.*wood, masonry, steel, reinforced_concrete"):
        assess(building)
