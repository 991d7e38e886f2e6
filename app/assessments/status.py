"""How far an assessment is: counts by site, and what failed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.database import Work

FAILED_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class SiteProgress:
    """Tasks of one site by state; `missing_inputs` counts results that lack an input."""

    site_id: str
    latitude: float
    longitude: float
    total_tasks: int
    done_tasks: int
    failed_tasks: int
    missing_inputs: int


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that used up its attempts, and its last error."""

    site_id: str
    scenario: str
    year: int
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Status:
    """An assessment with the progress of each site and the first failed tasks."""

    assessment_id: UUID
    status: str
    total_tasks: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    sites: tuple[SiteProgress, ...]
    failures: tuple[FailedTask, ...]

    @property
    def ended(self) -> bool:
        """No task of it will run any more."""
        return self.finished_at is not None

    @property
    def done_tasks(self) -> int:
        """Tasks with stored results."""
        return sum(site.done_tasks for site in self.sites)

    @property
    def failed_tasks(self) -> int:
        """Tasks that used up their attempts."""
        return sum(site.failed_tasks for site in self.sites)

    @property
    def missing_inputs(self) -> int:
        """Results that lack an input."""
        return sum(site.missing_inputs for site in self.sites)


# One statement: one round trip, and one snapshot, so that an assessment that shows as ended never
# shows tasks still to do.
PROGRESS = """
SELECT assessment.assessment_id, assessment.status, assessment.total_tasks,
       assessment.created_at, assessment.started_at, assessment.finished_at,
       site.site_id, site.latitude, site.longitude, task.total, task.done, task.failed,
       task.missing_inputs
FROM (
    SELECT site_no, count(*) AS total,
           count(*) FILTER (WHERE state = 'done') AS done,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           coalesce(sum(missing_inputs), 0) AS missing_inputs
    FROM risk.tasks
    WHERE assessment_id = %(assessment_id)s
    GROUP BY site_no
) AS task
JOIN risk.assessment_sites AS site
     ON site.assessment_id = %(assessment_id)s AND site.site_no = task.site_no
JOIN risk.assessments AS assessment
     ON assessment.assessment_id = %(assessment_id)s
ORDER BY site.site_no
"""

FAILURES = """
SELECT site.site_id, task.scenario::text, task.year, task.attempt, task.error
FROM risk.tasks AS task
JOIN risk.assessment_sites AS site USING (assessment_id, site_no)
WHERE task.assessment_id = %(assessment_id)s AND task.state = 'failed'
ORDER BY task.site_no, task.scenario, task.year
LIMIT %(limit)s
"""


def read_status(connection: Work, assessment_id: UUID) -> Status | None:
    """Return the assessment's progress, None when there is no such assessment."""
    parameters = {"assessment_id": assessment_id, "limit": FAILED_SHOWN_MAX}
    rows = connection.execute(PROGRESS, parameters).fetchall()
    if not rows:
        return None
    sites = tuple(SiteProgress(*row[6:]) for row in rows)
    failures: tuple[FailedTask, ...] = ()
    if any(site.failed_tasks for site in sites):
        failures = tuple(FailedTask(*task) for task in connection.execute(FAILURES, parameters))
    fields: tuple[Any, ...] = (*rows[0][:6], sites, failures)
    return Status(*fields)
