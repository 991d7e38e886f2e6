"""A missing input is named, and never becomes a zero."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.risk import Building, RiskResult, RiskType, SiteInputs, TaskInputs, assess_task
from tests.unit.risk.risk_strategies import (
    KNOWN_BUILDING,
    KNOWN_SITE,
    TERMS,
    buildings,
    constant_population,
    known_task,
    without,
)

FIELDS = [field.name for field in fields(Building)]
PEOPLE = constant_population(50_000.0)

NEEDED_BY_EXPOSURE = {
    "has_basement": {RiskType.URBAN_FLOOD},
    "storeys": {RiskType.TYPHOON},
    "coast_distance_m": {RiskType.EXTREME_COLD, RiskType.SEA_LEVEL_RISE, RiskType.TYPHOON},
    "river_distance_m": {RiskType.DROUGHT, RiskType.RIVER_FLOOD, RiskType.WATER_STRESS},
    "elevation_m": {
        RiskType.EXTREME_HEAT,
        RiskType.EXTREME_COLD,
        RiskType.RIVER_FLOOD,
        RiskType.URBAN_FLOOD,
        RiskType.SEA_LEVEL_RISE,
        RiskType.WILDFIRE,
    },
    "structure": set(),
    "built_year": set(),
}


def assess(site: SiteInputs, task: TaskInputs | None = None) -> tuple[RiskResult, ...]:
    return assess_task(site, task or known_task(), TERMS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_fact_is_named_by_the_perils_that_need_it(field: str) -> None:
    results = assess(SiteInputs(without(KNOWN_BUILDING, field), PEOPLE))
    lacking = {result.risk_type for result in results if result.exposure_missing}
    assert lacking == NEEDED_BY_EXPOSURE[field]
    for result in results:
        assert result.exposure_missing in ((), (f"building.{field}",))
        assert set(result.exposure_missing) <= set(result.vulnerability_missing)
        assert result.aal_missing == result.vulnerability_missing


@given(buildings, st.sets(st.sampled_from(FIELDS)))
def test_a_score_is_none_exactly_when_something_is_named(
    building: Building, unknown: set[str]
) -> None:
    for field in unknown:
        building = without(building, field)
    for result in assess(SiteInputs(building, PEOPLE)):
        assert (result.exposure_score is None) == bool(result.exposure_missing)
        assert (result.vulnerability_score is None) == bool(result.vulnerability_missing)
        numbers = (
            result.hazard_score,
            result.base_aal,
            result.final_aal,
            result.expected_loss,
            result.integrated_risk,
            result.risk_level,
        )
        assert (None in numbers) == bool(result.aal_missing)


def test_no_building_is_one_missing_input_not_seven() -> None:
    for result in assess(SiteInputs(None, PEOPLE)):
        assert result.exposure_missing == ("building",)
        assert result.vulnerability_missing == ("building",)
        assert result.aal_missing == ("building",)
        assert result.base_aal is not None


def test_no_building_and_no_people_are_both_named() -> None:
    heat = assess(SiteInputs(None, {}))[0]
    assert heat.exposure_missing == ("population", "building")


def test_population_of_another_year_does_not_count() -> None:
    heat = assess(SiteInputs(KNOWN_BUILDING, {2022: 5.0}))[0]
    assert heat.exposure_score is None
    assert heat.exposure_missing == ("population",)


def test_nobody_living_there_is_a_number_and_not_missing() -> None:
    heat = assess(SiteInputs(KNOWN_BUILDING, {2021: 0.0}))[0]
    assert heat.exposure_score == pytest.approx(0.4 * 95)
    assert heat.exposure_missing == ()


def test_a_hazard_of_zero_is_a_risk_of_zero_and_not_missing() -> None:
    for result in assess(KNOWN_SITE, known_task(hazard=0.0)):
        assert result.integrated_risk == 0.0
        assert result.aal_missing == ()


def test_without_hazard_there_is_a_loss_but_no_risk() -> None:
    task = known_task()
    bare = TaskInputs(task.year, {}, task.probability)
    for result in assess(KNOWN_SITE, bare):
        assert result.hazard_score is None
        assert result.integrated_risk is None
        assert result.risk_level is None
        assert result.expected_loss is not None
        assert result.aal_missing == ("hazard",)


def test_without_probability_there_is_a_risk_but_no_loss() -> None:
    task = known_task()
    bare = TaskInputs(task.year, task.hazard, {})
    for result in assess(KNOWN_SITE, bare):
        assert (result.base_aal, result.final_aal, result.expected_loss) == (None, None, None)
        assert result.integrated_risk is not None
        assert result.aal_missing == ("probability",)


def test_everything_missing_is_listed_in_one_order() -> None:
    for result in assess(SiteInputs(None, {}), TaskInputs(2021, {}, {})):
        assert result.aal_missing[:2] == ("hazard", "probability")
        assert set(result.aal_missing[2:]) <= {"building", "population"}
