"""Reading the reference data: a site's own once, a batch's hazards in one query."""

from collections import defaultdict
from collections.abc import Sequence

from app.assessments.batch import Task
from app.database import Work
from app.risk.types import Building, ProbabilityBins, RiskType, Scenario, SiteInputs, TaskInputs

RISK_TYPES = {risk_type.value: risk_type for risk_type in RiskType}

READ_BUILDING = """
SELECT structure, storeys, built_year, has_basement, elevation_m, river_distance_m,
       coast_distance_m
FROM reference.buildings
WHERE cell_id = %(cell_id)s
"""

READ_POPULATION = """
SELECT year, population
FROM reference.population
WHERE cell_id = %(cell_id)s
"""

# The full join keeps a peril that has only one of the two.
READ_HAZARDS = """
WITH task AS (
    SELECT scenario, year
    FROM unnest(%(scenarios)s::text[]::risk.scenario[], %(years)s::smallint[])
         AS task (scenario, year)
), hazard AS (
    SELECT scenario, year, risk_type, hazard_score
    FROM task JOIN reference.hazard_results USING (scenario, year)
    WHERE cell_id = %(cell_id)s
), probability AS (
    SELECT scenario, year, risk_type, bin_probabilities, bin_damage_rates
    FROM task JOIN reference.probability_results USING (scenario, year)
    WHERE cell_id = %(cell_id)s
)
SELECT scenario::text, year, risk_type::text, hazard_score, bin_probabilities,
       bin_damage_rates
FROM hazard FULL JOIN probability USING (scenario, year, risk_type)
"""


def read_site(connection: Work, cell_id: int) -> SiteInputs:
    """Return the building and population of a cell; what is not there is missing."""
    parameters = {"cell_id": cell_id}
    building = connection.execute(READ_BUILDING, parameters).fetchone()
    population = connection.execute(READ_POPULATION, parameters).fetchall()
    return SiteInputs(
        building=None if building is None else Building(*building),
        population=dict(population),
    )


def read_tasks(
    connection: Work, cell_id: int, tasks: Sequence[Task]
) -> dict[tuple[Scenario, int], TaskInputs]:
    """Return each task's hazards and probabilities by (scenario, year), from one query."""
    hazards: dict[tuple[str, int], dict[RiskType, float]] = defaultdict(dict)
    bins: dict[tuple[str, int], dict[RiskType, ProbabilityBins]] = defaultdict(dict)
    parameters = {
        "cell_id": cell_id,
        "scenarios": [task.scenario.value for task in tasks],
        "years": [task.year for task in tasks],
    }
    for scenario, year, name, score, probabilities, rates in connection.execute(
        READ_HAZARDS, parameters
    ):
        risk_type = RISK_TYPES[name]
        if score is not None:
            hazards[scenario, year][risk_type] = score
        if probabilities is not None:
            bins[scenario, year][risk_type] = ProbabilityBins(tuple(probabilities), tuple(rates))
    return {
        (task.scenario, task.year): TaskInputs(
            task.year, hazards[task.scenario.value, task.year], bins[task.scenario.value, task.year]
        )
        for task in tasks
    }
