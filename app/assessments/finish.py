"""Ending assessments: after the last task, and for those whose worker died in between."""

from uuid import UUID

from app.database import Work

FINISH = """
UPDATE risk.assessments AS assessment
SET status = CASE WHEN EXISTS (
                      SELECT FROM risk.tasks AS task
                      WHERE task.assessment_id = assessment.assessment_id
                        AND task.state = 'failed')
                  THEN 'failed' ELSE 'succeeded' END,
    finished_at = now()
WHERE assessment.finished_at IS NULL
  AND (%(assessment_id)s::uuid IS NULL OR assessment.assessment_id = %(assessment_id)s)
  AND NOT EXISTS (
      SELECT FROM risk.tasks AS task
      WHERE task.assessment_id = assessment.assessment_id
        AND task.state IN ('queued', 'running'))
RETURNING assessment.assessment_id, assessment.status
"""

# What a task did to the workers that held it cannot be told here; that it never came
# back within its lease, as often as allowed, can.
FAIL_LOST = """
UPDATE risk.tasks AS task
SET state = 'failed', lease_expires_at = NULL,
    error = format('its lease ran out on attempt %%s of %%s, last held by %%s: the worker died, '
                   'hung or lost the database each time',
                   task.attempt, %(attempts_max)s::integer, task.leased_by)
FROM (
    SELECT lost.assessment_id, lost.site_no, lost.scenario, lost.year
    FROM risk.tasks AS lost
    WHERE lost.state IN ('queued', 'running')
      AND lost.attempt >= %(attempts_max)s
      AND (lost.state = 'queued' OR lost.lease_expires_at < now())
    FOR UPDATE SKIP LOCKED
) AS lost
WHERE (task.assessment_id, task.site_no, task.scenario, task.year)
    = (lost.assessment_id, lost.site_no, lost.scenario, lost.year)
RETURNING task.assessment_id, task.site_no, task.scenario::text, task.year, task.error
"""

Ended = list[tuple[UUID, str]]
Lost = list[tuple[UUID, int, str, int, str]]


def finish(connection: Work, assessment_id: UUID | None) -> Ended:
    """End the assessment (every one when None) if no task of it is left to do.

    Returns (assessment_id, status) of each that ended now. Run it after the commit that
    ended a task: before, two workers could each still see the other's task as open.
    """
    return connection.execute(FINISH, {"assessment_id": assessment_id}).fetchall()


def fail_lost(connection: Work, attempts_max: int) -> Lost:
    """Fail the tasks that lost their lease on the last attempt.

    Returns (assessment_id, site_no, scenario, year, error) of each.
    """
    return connection.execute(FAIL_LOST, {"attempts_max": attempts_max}).fetchall()
