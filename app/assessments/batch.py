"""A leased batch: its tasks, the reference data they need, and what became of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.database import Work
from app.risk.types import (
    AssetTerms,
    Building,
    ProbabilityBins,
    RiskResult,
    RiskType,
    Scenario,
    SiteInputs,
    TaskInputs,
)


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario and year of the batch's site; `attempt` is the fencing number."""

    scenario: Scenario
    year: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Leased tasks of one site, in scenario and year order."""

    assessment_id: UUID
    site_no: int
    cell_id: int
    terms: AssetTerms
    token: str
    tasks: tuple[Task, ...]

    @property
    def retried(self) -> bool:
        """True if the task was tried before: it then comes alone, as it may kill its worker."""
        return self.tasks[0].attempt > 1


@dataclass(frozen=True, slots=True)
class TaskResults:
    """The nine results of one finished task."""

    task: Task
    results: tuple[RiskResult, ...]

    @property
    def missing_inputs(self) -> int:
        """Return how many of the nine results lack an input, 0-9."""
        return sum(
            bool(result.exposure_missing or result.vulnerability_missing or result.aal_missing)
            for result in self.results
        )


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task that raised, and what it raised."""

    task: Task
    error: str


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
