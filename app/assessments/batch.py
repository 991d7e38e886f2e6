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


@dataclass(frozen=True, slots=True)
class BatchInputs:
    """What a batch's tasks need, by (scenario, year), and the version of all reference data."""

    version: str | None
    tasks: dict[tuple[Scenario, int], TaskInputs]


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

# Whatever changes the data writes the row of the grid in the same transaction: who wrote it last is
# their version. It comes with a row of nulls where a batch has no inputs. The full join keeps a
# peril that has only one of the two.
READ_HAZARDS = """
WITH data AS (
    SELECT (SELECT xmin::text FROM reference.grid) AS version
), task AS (
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
SELECT version, scenario::text, year, risk_type::text, hazard_score, bin_probabilities,
       bin_damage_rates
FROM data
LEFT JOIN (hazard FULL JOIN probability USING (scenario, year, risk_type)) ON true
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


def read_tasks(connection: Work, cell_id: int, tasks: Sequence[Task]) -> BatchInputs:
    """Return each task's hazards and probabilities, from one query."""
    hazards: dict[tuple[str, int], dict[RiskType, float]] = defaultdict(dict)
    bins: dict[tuple[str, int], dict[RiskType, ProbabilityBins]] = defaultdict(dict)
    parameters = {
        "cell_id": cell_id,
        "scenarios": [task.scenario.value for task in tasks],
        "years": [task.year for task in tasks],
    }
    rows = connection.execute(READ_HAZARDS, parameters).fetchall()
    for _, scenario, year, name, score, probabilities, rates in rows:
        if name is None:
            continue
        risk_type = RISK_TYPES[name]
        if score is not None:
            hazards[scenario, year][risk_type] = score
        if probabilities is not None:
            bins[scenario, year][risk_type] = ProbabilityBins(tuple(probabilities), tuple(rates))
    inputs = {
        (task.scenario, task.year): TaskInputs(
            task.year, hazards[task.scenario.value, task.year], bins[task.scenario.value, task.year]
        )
        for task in tasks
    }
    return BatchInputs(rows[0][0], inputs)
