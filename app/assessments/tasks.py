"""Tasks and their leases: claim, complete, give back; and the end of an assessment.

A claim leases up to a batch of one site's tasks under a fresh token and returns each
task's attempt. Attempt and token together fence every later write: a holder whose lease
ran out and was claimed again changes nothing. All times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.assessments.batch import Batch, Task, TaskFailure, TaskResults
from app.assessments.write_results import write_results
from app.database import Work
from app.risk.types import AssetTerms, Scenario


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """How many tasks, for how long, how often one may be tried, and whether again."""

    batch_tasks: int
    lease_seconds: float
    attempts_max: int
    fresh_only: bool = False


class FenceRefusedError(Exception):
    """The lease was lost and claimed again; nothing of this batch was written."""


# The oldest live assessment first; one whose tasks are all leased or waiting is passed
# over. A task that was tried before comes alone, so that one which kills its worker
# cannot use up the attempts of its neighbours. The token is locked until the COMMIT is done, for
# FIND_CLAIM; a scalar subquery without columns is evaluated once, before any row is read.
CLAIM = """
WITH first AS (
    SELECT task.assessment_id, task.site_no, task.attempt
    FROM (
        SELECT assessment_id, created_at
        FROM risk.assessments
        WHERE finished_at IS NULL
          AND (SELECT pg_advisory_xact_lock(hashtextextended(%(token)s, 0))) IS NOT NULL
        ORDER BY created_at, assessment_id
    ) AS live
    CROSS JOIN LATERAL (
        SELECT candidate.assessment_id, candidate.site_no, candidate.attempt
        FROM risk.tasks AS candidate
        WHERE candidate.assessment_id = live.assessment_id
          AND candidate.state IN ('queued', 'running')
          AND (candidate.state = 'queued' OR candidate.lease_expires_at < now())
          AND (candidate.not_before IS NULL OR candidate.not_before <= now())
          AND candidate.attempt < CASE WHEN %(fresh_only)s THEN 1 ELSE %(attempts_max)s END
        ORDER BY candidate.site_no, candidate.scenario, candidate.year
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS task
    LIMIT 1
), batch AS (
    SELECT task.assessment_id, task.site_no, task.scenario, task.year
    FROM first
    JOIN risk.tasks AS task USING (assessment_id, site_no)
    WHERE task.state IN ('queued', 'running')
      AND (task.state = 'queued' OR task.lease_expires_at < now())
      AND (task.not_before IS NULL OR task.not_before <= now())
      AND task.attempt = first.attempt
    ORDER BY task.scenario, task.year
    LIMIT (SELECT CASE WHEN attempt = 0 THEN %(batch_tasks)s ELSE 1 END FROM first)
    FOR UPDATE OF task SKIP LOCKED
), leased AS (
    UPDATE risk.tasks AS task
    SET state = 'running', attempt = task.attempt + 1, leased_by = %(token)s,
        lease_expires_at = now() + make_interval(secs => %(lease_seconds)s),
        not_before = NULL
    FROM batch
    WHERE (task.assessment_id, task.site_no, task.scenario, task.year)
        = (batch.assessment_id, batch.site_no, batch.scenario, batch.year)
    RETURNING task.assessment_id, task.site_no, task.scenario, task.year, task.attempt
), started AS (
    UPDATE risk.assessments
    SET status = 'running', started_at = coalesce(started_at, now())
    WHERE assessment_id = (SELECT assessment_id FROM first) AND status = 'queued'
)
SELECT leased.assessment_id, leased.site_no, site.cell_id,
       assessment.asset_value, assessment.insurance_coverage_rate,
       leased.scenario::text, leased.year, leased.attempt
FROM leased
JOIN risk.assessment_sites AS site USING (assessment_id, site_no)
JOIN risk.assessments AS assessment USING (assessment_id)
ORDER BY leased.scenario, leased.year
"""

# By itself before FIND_CLAIM, whose snapshot must come after the wait: a COMMIT that is still under
# way shows nothing yet, and a claim that is then repeated would lease a second batch.
AWAIT_CLAIM = "SELECT pg_advisory_xact_lock(hashtextextended(%(token)s, 0))"
FIND_CLAIM = """
SELECT task.assessment_id, task.site_no, site.cell_id,
       assessment.asset_value, assessment.insurance_coverage_rate,
       task.scenario::text, task.year, task.attempt
FROM risk.tasks AS task
JOIN risk.assessment_sites AS site USING (assessment_id, site_no)
JOIN risk.assessments AS assessment USING (assessment_id)
WHERE task.state = 'running' AND task.leased_by = %(token)s
ORDER BY task.scenario, task.year
"""

OURS = """
    FROM unnest(%(scenarios)s::text[]::risk.scenario[], %(years)s::smallint[],
                %(attempts)s::smallint[], %(missing_inputs)s::integer[], %(errors)s::text[])
         AS ours (scenario, year, attempt, missing_inputs, error)
    WHERE task.assessment_id = %(assessment_id)s AND task.site_no = %(site_no)s
      AND task.scenario = ours.scenario AND task.year = ours.year
      AND task.attempt = ours.attempt AND task.leased_by = %(token)s
      AND task.state = 'running'
"""

COMPLETE = f"""
UPDATE risk.tasks AS task
SET state = 'done', lease_expires_at = NULL, error = NULL,
    missing_inputs = ours.missing_inputs
{OURS}
"""  # noqa: S608  # constant text only

FAIL = f"""
UPDATE risk.tasks AS task
SET state = CASE WHEN task.attempt >= %(attempts_max)s THEN 'failed'
                 ELSE 'queued' END::risk.task_state,
    not_before = now() + make_interval(secs => %(retry_delay_seconds)s),
    lease_expires_at = NULL, leased_by = NULL, error = ours.error
{OURS}
RETURNING task.state = 'failed'
"""  # noqa: S608  # constant text only

# The attempt is not counted. That cannot revive an old fence: the token is checked too,
# and a later claim has another.
RELEASE = f"""
UPDATE risk.tasks AS task
SET state = 'queued', attempt = task.attempt - 1, lease_expires_at = NULL, leased_by = NULL
{OURS}
"""  # noqa: S608  # constant text only

# A failure that was stored has given its lease up: only its attempt and its error
# distinguish it from one whose lease ran out.
COUNT_OUTCOMES = """
SELECT count(*) FILTER (WHERE task.state = 'running' AND task.leased_by = %(token)s),
       count(*) FILTER (WHERE task.state = 'done' AND task.leased_by = %(token)s),
       count(*) FILTER (WHERE task.leased_by IS NULL AND task.attempt = ours.attempt
                          AND task.error = ours.error)
FROM unnest(%(scenarios)s::text[]::risk.scenario[], %(years)s::smallint[],
            %(attempts)s::smallint[], %(errors)s::text[])
     AS ours (scenario, year, attempt, error)
JOIN risk.tasks AS task USING (scenario, year)
WHERE task.assessment_id = %(assessment_id)s AND task.site_no = %(site_no)s
"""


def claim(connection: Work, rules: ClaimRules, token: str) -> Batch | None:
    """Lease the next tasks under `token`, which must be new; None when there is nothing."""
    parameters = {
        "batch_tasks": rules.batch_tasks,
        "lease_seconds": rules.lease_seconds,
        "attempts_max": rules.attempts_max,
        "fresh_only": rules.fresh_only,
        "token": token,
    }
    return _batch(connection.execute(CLAIM, parameters).fetchall(), token)


def find_claim(connection: Work, token: str) -> Batch | None:
    """Return what a claim under `token` leased, when its own answer was lost.

    A COMMIT of it that is still under way is waited for, as long as a lock may be.
    """
    connection.execute(AWAIT_CLAIM, {"token": token})
    return _batch(connection.execute(FIND_CLAIM, {"token": token}).fetchall(), token)


def complete(connection: Work, batch: Batch, results: Sequence[TaskResults]) -> None:
    """Store the results and mark their tasks done, or raise FenceRefusedError.

    The fence goes first: it locks the tasks, so no one can claim them in between.
    """
    if not results:
        return
    parameters = _ours(batch, [entry.task for entry in results])
    parameters["missing_inputs"] = [entry.missing_inputs for entry in results]
    if connection.execute(COMPLETE, parameters).rowcount != len(results):
        raise FenceRefusedError(f"{batch.assessment_id} site {batch.site_no}")
    write_results(connection, batch.assessment_id, batch.site_no, results)


def fail(
    connection: Work,
    batch: Batch,
    failures: Sequence[TaskFailure],
    *,
    attempts_max: int,
    retry_delay_seconds: float,
) -> int:
    """Record what failed and queue it again; return how many have no attempt left.

    Raises FenceRefusedError when the lease was lost.
    """
    if not failures:
        return 0
    parameters = _ours(batch, [failure.task for failure in failures])
    parameters["errors"] = [failure.error for failure in failures]
    parameters |= {"attempts_max": attempts_max, "retry_delay_seconds": retry_delay_seconds}
    rows = connection.execute(FAIL, parameters).fetchall()
    if len(rows) != len(failures):
        raise FenceRefusedError(f"{batch.assessment_id} site {batch.site_no}")
    return sum(row[0] for row in rows)


def release(connection: Work, batch: Batch) -> int:
    """Give unfinished tasks of the batch back, uncounted; return how many there were."""
    return connection.execute(RELEASE, _ours(batch, batch.tasks)).rowcount


def committed(
    connection: Work, batch: Batch, done: int, failures: Sequence[TaskFailure]
) -> bool | None:
    """Return, after an ambiguous commit, whether the batch's outcome is stored.

    True when it is, None when the lease is still ours (nothing was stored); raises
    FenceRefusedError when it is neither, or no longer known: failures alone
    leave no trace once their tasks were claimed again.
    """
    errors = {failure.task: failure.error for failure in failures}
    parameters = _ours(batch, batch.tasks)
    parameters["errors"] = [errors.get(task) for task in batch.tasks]
    row = connection.execute(COUNT_OUTCOMES, parameters).fetchone()
    held, stored, failed = row if row is not None else (0, 0, 0)
    if held == len(batch.tasks):
        return None
    # What is done under our token was stored by us, and the failures beside it with it.
    if stored == done and (done or failed == len(failures)):
        return True
    raise FenceRefusedError(f"{batch.assessment_id} site {batch.site_no}")


def _ours(batch: Batch, tasks: Sequence[Task]) -> dict[str, Any]:
    return {
        "assessment_id": batch.assessment_id,
        "site_no": batch.site_no,
        "token": batch.token,
        "scenarios": [task.scenario.value for task in tasks],
        "years": [task.year for task in tasks],
        "attempts": [task.attempt for task in tasks],
        "missing_inputs": [0] * len(tasks),
        "errors": [None] * len(tasks),
    }


def _batch(rows: Sequence[tuple[Any, ...]], token: str) -> Batch | None:
    if not rows:
        return None
    assessment_id, site_no, cell_id, asset_value, coverage = rows[0][:5]
    return Batch(
        assessment_id=assessment_id,
        site_no=site_no,
        cell_id=cell_id,
        terms=AssetTerms(asset_value, coverage),
        token=token,
        tasks=tuple(Task(Scenario(row[5]), row[6], row[7]) for row in rows),
    )


# Scalar subqueries are looked up by assessment, whatever the statistics say. EXISTS is not: the
# planner may read all tasks once and hash them, and then the finished ones cost most. SKIP LOCKED,
# because who has an assessment locked ends it, or has just claimed a task of it.
FINISH_ALL = """
UPDATE risk.assessments AS assessment
SET status = CASE WHEN (
                      SELECT true
                      FROM risk.tasks AS task
                      WHERE task.assessment_id = assessment.assessment_id
                        AND task.state = 'failed'
                      LIMIT 1)
                  THEN 'failed' ELSE 'succeeded' END,
    finished_at = now()
WHERE assessment.assessment_id = ANY (ARRAY(
    SELECT live.assessment_id
    FROM risk.assessments AS live
    WHERE live.finished_at IS NULL
      AND (
          SELECT true
          FROM risk.tasks AS task
          WHERE task.assessment_id = live.assessment_id
            AND task.state IN ('queued', 'running')
          LIMIT 1) IS NULL
    FOR UPDATE SKIP LOCKED))
RETURNING assessment.assessment_id, assessment.status
"""
FINISH_ONE = FINISH_ALL.replace(
    "WHERE live.finished_at IS NULL",
    "WHERE live.assessment_id = %(assessment_id)s AND live.finished_at IS NULL",
)
LOST_MAX = 1000

# What a task did to the workers that held it is not known here; that it never came
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
    LIMIT %(lost_max)s
    FOR UPDATE SKIP LOCKED
) AS lost
WHERE (task.assessment_id, task.site_no, task.scenario, task.year)
    = (lost.assessment_id, lost.site_no, lost.scenario, lost.year)
RETURNING task.assessment_id, task.site_no, task.scenario::text, task.year, task.error
"""

# They fail together, so one of them tells.
LOST_IS_STORED = """
SELECT task.state = 'failed' AND task.error = %(error)s
FROM risk.tasks AS task
WHERE task.assessment_id = %(assessment_id)s AND task.site_no = %(site_no)s
  AND task.scenario = %(scenario)s::text::risk.scenario AND task.year = %(year)s
FOR UPDATE
"""

Ended = list[tuple[UUID, str]]
Lost = list[tuple[UUID, int, str, int, str]]


def finish(connection: Work, assessment_id: UUID | None) -> Ended:
    """End the assessment (every one when None) if no task of it is left to do.

    Returns (assessment_id, status) of each that ended now. Run it after the commit that
    ended a task: before, two workers could each still see the other's task as open.
    """
    if assessment_id is None:
        return connection.execute(FINISH_ALL).fetchall()
    return connection.execute(FINISH_ONE, {"assessment_id": assessment_id}).fetchall()


def fail_lost(connection: Work, attempts_max: int) -> Lost:
    """Fail tasks that lost their lease on the last attempt, at most LOST_MAX at a time.

    Returns (assessment_id, site_no, scenario, year, error) of each.
    """
    parameters = {"attempts_max": attempts_max, "lost_max": LOST_MAX}
    return connection.execute(FAIL_LOST, parameters).fetchall()


def find_lost(connection: Work, lost: Lost) -> Lost | None:
    """Return what `fail_lost` has failed, after an ambiguous commit; None when that is not stored.

    A repeat would find those tasks failed already, and nobody would hear of them.
    """
    if not lost:
        return lost
    names = ("assessment_id", "site_no", "scenario", "year", "error")
    parameters = dict(zip(names, lost[0], strict=True))
    row = connection.execute(LOST_IS_STORED, parameters).fetchone()
    return lost if row is not None and row[0] else None
