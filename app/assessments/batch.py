"""A leased batch and what became of its tasks."""

from dataclasses import dataclass
from uuid import UUID

from app.risk.types import AssetTerms, RiskResult, Scenario


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
    site_id: str
    cell_id: int
    terms: AssetTerms
    token: str
    tasks: tuple[Task, ...]

    @property
    def retried(self) -> bool:
        """Tried before: such a task comes alone, as it may kill whoever works on it."""
        return self.tasks[0].attempt > 1


@dataclass(frozen=True, slots=True)
class TaskResults:
    """The nine results of one finished task."""

    task: Task
    results: tuple[RiskResult, ...]

    @property
    def missing_inputs(self) -> int:
        """How many of the nine results lack an input, 0-9."""
        return sum(
            bool(result.exposure_missing or result.vulnerability_missing or result.aal_missing)
            for result in self.results
        )


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task that raised, and what it raised."""

    task: Task
    error: str
