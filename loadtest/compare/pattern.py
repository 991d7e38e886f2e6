"""What one task did in the incident, and the result rows that it left.

One statement per operation, nothing read twice as one. Per task and risk type nine
reads, then three writes: twelve operations, each with a connection of its own. Over nine risk
types that is 81 reads and 27 writes per task. The calculation is the service's own risk model, so
that the results can be compared bit by bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from app.client.sample import sample_request
from app.risk import AssetTerms, RiskResult, RiskType, assess_task
from app.risk.types import (
    POPULATION_LAST_YEAR,
    YEARS,
    Building,
    ProbabilityBins,
    Scenario,
    SiteInputs,
    TaskInputs,
)
from loadtest.database import arguments

Row = tuple[Any, ...]
Operation = Callable[[str, Mapping[str, Any]], Row | None]
# By scenario, year and risk type: the figures.
Rows = dict[str, list[Any]]

TERMS = AssetTerms(
    asset_value=sample_request()["asset_value"],
    insurance_coverage_rate=sample_request()["insurance_coverage_rate"],
)
_KEY = (
    "cell_id = %(cell_id)s AND scenario = %(scenario)s::risk.scenario "
    "AND year = %(year)s AND risk_type = %(risk_type)s::risk.risk_type"
)
_BUILDING = "FROM reference.buildings WHERE cell_id = %(cell_id)s"
_CODE = f"SELECT structure, storeys, built_year, has_basement {_BUILDING}"

HAZARD = f"SELECT hazard_score FROM reference.hazard_results WHERE {_KEY}"  # noqa: S608
PROBABILITY = (
    f"SELECT bin_probabilities, bin_damage_rates FROM reference.probability_results WHERE {_KEY}"  # noqa: S608
)
RIVER = f"SELECT river_distance_m {_BUILDING}"
COAST = f"SELECT coast_distance_m {_BUILDING}"
ELEVATION = f"SELECT elevation_m {_BUILDING}"
POPULATION = (
    "SELECT population FROM reference.population "
    "WHERE cell_id = %(cell_id)s AND year = %(population_year)s"
)
# The vulnerability looks the building up again, as the incident's did.
CODE_AGAIN = _CODE
SURROUNDINGS_AGAIN = f"SELECT elevation_m, river_distance_m, coast_distance_m {_BUILDING}"

_RESULT_KEY = (
    "%(assessment_id)s, 0, %(scenario)s::risk.scenario, %(year)s, %(risk_type)s::risk.risk_type"
)
_KEY_COLUMNS = "assessment_id, site_no, scenario, year, risk_type"
WRITES = (
    f"INSERT INTO risk.exposure_results ({_KEY_COLUMNS}, exposure_score, missing_inputs) "  # noqa: S608
    f"VALUES ({_RESULT_KEY}, %(exposure_score)s, %(exposure_missing)s) ON CONFLICT DO NOTHING",
    f"INSERT INTO risk.vulnerability_results ({_KEY_COLUMNS}, vulnerability_score, "  # noqa: S608
    f"missing_inputs) VALUES ({_RESULT_KEY}, %(vulnerability_score)s, "
    "%(vulnerability_missing)s) ON CONFLICT DO NOTHING",
    f"INSERT INTO risk.aal_scaled_results ({_KEY_COLUMNS}, hazard_score, base_aal, final_aal, "  # noqa: S608
    f"expected_loss, integrated_risk, risk_level, missing_inputs) VALUES ({_RESULT_KEY}, "
    "%(hazard_score)s, %(base_aal)s, %(final_aal)s, %(expected_loss)s, %(integrated_risk)s, "
    "%(risk_level)s::risk.risk_level, %(aal_missing)s) ON CONFLICT DO NOTHING",
)
FIGURES = (
    "hazard_score",
    "exposure_score",
    "vulnerability_score",
    "base_aal",
    "final_aal",
    "expected_loss",
    "integrated_risk",
    "risk_level",
)
# The same columns as the api gives.
RESULTS = """
SELECT aal.scenario::text, aal.year, aal.risk_type::text, hazard_score, exposure_score,
       vulnerability_score, base_aal, final_aal, expected_loss, integrated_risk,
       risk_level::text
FROM risk.aal_scaled_results AS aal
JOIN risk.exposure_results USING (assessment_id, site_no, scenario, year, risk_type)
JOIN risk.vulnerability_results USING (assessment_id, site_no, scenario, year, risk_type)
WHERE assessment_id = %s
"""
DIFFERENCES_MAX = 5


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario and year of one site."""

    assessment_id: str
    cell_id: int
    scenario: Scenario
    year: int


def tasks(assessment_id: str, cell_id: int, years: int) -> Iterator[Task]:
    """Yield the tasks of one site: four scenarios times the first `years` of eighty."""
    for scenario in Scenario:
        for year in YEARS[:years]:
            yield Task(assessment_id, cell_id, scenario, year)


def run_task(task: Task, terms: AssetTerms, operation: Operation) -> None:
    """Read, calculate and write one task; whatever an operation raises escapes."""
    hazard: dict[RiskType, float] = {}
    bins: dict[RiskType, ProbabilityBins] = {}
    site = SiteInputs(None, {})
    for risk_type in RiskType:
        site = _read(task, risk_type, operation, hazard, bins)
    inputs = TaskInputs(task.year, hazard, bins)
    for result in assess_task(site, inputs, terms):
        row = result_row(task, result)
        for statement in WRITES:
            operation(statement, row)


def read_task(task: Task, operation: Operation) -> None:
    """Make a task's reads alone."""
    for risk_type in RiskType:
        _read(task, risk_type, operation, {}, {})


def result_row(task: Task, result: RiskResult) -> dict[str, Any]:
    """Return the parameters of the three writes of one result."""
    return {
        "assessment_id": task.assessment_id,
        "scenario": task.scenario.value,
        "year": task.year,
        "risk_type": result.risk_type.value,
        "exposure_score": result.exposure_score,
        "exposure_missing": list(result.exposure_missing),
        "vulnerability_score": result.vulnerability_score,
        "vulnerability_missing": list(result.vulnerability_missing),
        "hazard_score": result.hazard_score,
        "base_aal": result.base_aal,
        "final_aal": result.final_aal,
        "expected_loss": result.expected_loss,
        "integrated_risk": result.integrated_risk,
        "risk_level": None if result.risk_level is None else result.risk_level.value,
        "aal_missing": list(result.aal_missing),
    }


def _read(
    task: Task,
    risk_type: RiskType,
    operation: Operation,
    hazard: dict[RiskType, float],
    bins: dict[RiskType, ProbabilityBins],
) -> SiteInputs:
    """Make the nine reads of one risk type; fill in what they found."""
    population_year = min(task.year, POPULATION_LAST_YEAR)
    parameters = {
        "cell_id": task.cell_id,
        "scenario": task.scenario.value,
        "year": task.year,
        "risk_type": risk_type.value,
        "population_year": population_year,
    }
    score, probability, *site = [
        operation(statement, parameters)
        for statement in (HAZARD, PROBABILITY, _CODE, RIVER, COAST, ELEVATION, POPULATION)
    ]
    operation(CODE_AGAIN, parameters)
    operation(SURROUNDINGS_AGAIN, parameters)
    if score is not None:
        hazard[risk_type] = score[0]
    if probability is not None:
        bins[risk_type] = ProbabilityBins(tuple(probability[0]), tuple(probability[1]))
    return _site(site, population_year)


def _site(rows: Sequence[Row | None], population_year: int) -> SiteInputs:
    code, river, coast, elevation, population = rows
    people = {} if population is None else {population_year: population[0]}
    if code is None or river is None or coast is None or elevation is None:
        return SiteInputs(None, people)
    structure, storeys, built_year, has_basement = code
    building = Building(
        structure, storeys, built_year, has_basement, elevation[0], river[0], coast[0]
    )
    return SiteInputs(building, people)


def rows_from_tables(assessment_id: str) -> Rows:
    """Read an assessment's results in the lab, directly."""
    with psycopg.connect(**arguments("direct")) as connection:
        found = connection.execute(RESULTS, (assessment_id,)).fetchall()
    return {_key(row[0], row[1], row[2]): list(row[3:]) for row in found}


def rows_from_api(rows: Iterable[Mapping[str, Any]]) -> Rows:
    """Return rows of the api's results in the same form; a whole number comes as 2, not as 2.0."""
    return {
        _key(row["scenario"], row["year"], row["risk_type"]): [
            float(row[name]) if isinstance(row[name], int) else row[name] for name in FIGURES
        ]
        for row in rows
    }


def digest(rows: Rows) -> str:
    """Return a SHA-256 of every figure; equal rows give equal digests."""
    text = json.dumps(sorted(rows.items()), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(one: Rows, other: Rows) -> list[str]:
    """Return the first keys whose figures are not the same, with both."""
    keys = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    return [f"{key}: {one.get(key)} / {other.get(key)}" for key in keys[:DIFFERENCES_MAX]]


def _key(scenario: str, year: int, risk_type: str) -> str:
    return f"{scenario} {year} {risk_type}"
