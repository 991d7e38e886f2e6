"""What the statements of the queue cost when the planner's statistics are wrong, and their locks.

They run on copies of the tables whose statistics were taken when there was a single assessment,
with all of its tasks to do; since then many have finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.assessments import tasks
from tests.fix_sql import Sql, run_psql
from tests.fix_stack import Stack, poll

FINISHED_TASKS = 100_000
# A page holds fewer than 120 tasks: whoever read those that are finished would touch more.
PAGES_MAX = FINISHED_TASKS // 120

FILL = """
CREATE SCHEMA scratch;
CREATE TABLE scratch.assessments (LIKE risk.assessments INCLUDING ALL)
    WITH (autovacuum_enabled = off);
CREATE TABLE scratch.assessment_sites (LIKE risk.assessment_sites INCLUDING ALL)
    WITH (autovacuum_enabled = off);
CREATE TABLE scratch.tasks (LIKE risk.tasks INCLUDING ALL) WITH (autovacuum_enabled = off);

CREATE FUNCTION scratch.fill(assessments integer, sites integer, ended boolean,
                             task_state risk.task_state)
RETURNS void LANGUAGE sql AS $$
    WITH made AS (
        INSERT INTO scratch.assessments (
            assessment_id, request_hash, asset_value, insurance_coverage_rate, scenarios,
            year_from, year_to, total_tasks, status, finished_at)
        SELECT gen_random_uuid(), '', 1, 0, '{SSP126}', 2021, 2025, sites * 5,
               CASE WHEN ended THEN 'succeeded' ELSE 'running' END,
               CASE WHEN ended THEN now() END
        FROM generate_series(1, assessments)
        RETURNING assessment_id
    )
    INSERT INTO scratch.tasks (assessment_id, site_no, scenario, year, state)
    SELECT assessment_id, site_no, 'SSP126', year, task_state
    FROM made, generate_series(0, sites - 1) AS site_no, generate_series(2021, 2025) AS year
$$;
"""
UNFINISHED, ENDED = 100, 20

PARAMETERS = {
    "assessment_id": "(SELECT assessment_id FROM scratch.assessments LIMIT 1)",
    "attempts_max": "3",
    "batch_tasks": "40",
    "fresh_only": "false",
    "lease_seconds": "60",
    "lost_max": str(tasks.LOST_MAX),
    "token": "'token'",
}


def scratched(statement: str) -> str:
    """Return the statement with values, on the copies."""
    return re.sub(r"\brisk\.(assessment_sites|assessments|tasks)\b", r"scratch.\1", statement) % (
        PARAMETERS
    )


@pytest.fixture(scope="module")
def scratch(sql: Sql) -> Iterator[None]:
    """Fill the copies."""
    sql.rows(
        f"{FILL} SELECT scratch.fill(1, 64, false, 'queued');"
        " ANALYZE scratch.assessments, scratch.tasks"
    )
    try:
        sql.rows(
            f"SELECT scratch.fill({FINISHED_TASKS // 5}, 1, true, 'done'),"
            f" scratch.fill({UNFINISHED}, 1, false, 'queued'),"
            f" scratch.fill({ENDED}, 1, false, 'done')"
        )
        yield
    finally:
        sql.rows("DROP SCHEMA scratch CASCADE")


def as_worker(stack: Stack, script: str) -> list[dict[str, str]]:
    """Run a script with the planner's settings of the worker's role; undo what it did."""
    settings = (
        "DO $$ DECLARE one text; BEGIN FOR one IN SELECT unnest(rolconfig) FROM pg_roles"
        " WHERE rolname = 'risk_worker' LOOP IF one LIKE 'enable%' THEN PERFORM"
        " set_config(split_part(one, '=', 1), split_part(one, '=', 2), false);"
        " END IF; END LOOP; END $$"
    )
    arguments = ["--quiet", "--username=postgres", "--dbname=risk"]
    return run_psql(
        stack.container("postgres"), arguments, f"BEGIN; {settings}; {script}; ROLLBACK"
    )


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("name", ["FINISH_ALL", "FINISH_ONE", "FAIL_LOST", "CLAIM"])
def test_finished_tasks_cost_nothing_whatever_the_statistics_say(stack: Stack, name: str) -> None:
    statement = scratched(getattr(tasks, name))
    (row,) = as_worker(stack, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
    plan: dict[str, Any] = json.loads(row["QUERY PLAN"])[0]["Plan"]
    touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert 0 < touched < PAGES_MAX, json.dumps(plan, indent=1)


@pytest.mark.usefixtures("scratch")
def test_every_assessment_without_a_task_to_do_is_ended_and_no_other(stack: Stack) -> None:
    rows = as_worker(stack, scratched(tasks.FINISH_ALL))
    assert [row["status"] for row in rows] == ["succeeded"] * ENDED


@pytest.mark.usefixtures("scratch")
def test_a_sweep_passes_over_what_another_has_locked(stack: Stack, sql: Sql) -> None:
    held = "SELECT 'held by a sweep' FROM scratch.assessments FOR UPDATE"
    statement = f"BEGIN; {held}; SELECT pg_sleep(60)"
    stack.container("postgres").exec_run(
        ["psql", "--username=postgres", "--dbname=risk", "--command", statement],
        detach=True,
    )
    holder = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT ''held by a sweep''%'"
        " AND wait_event = 'PgSleep'"
    )
    try:
        poll(lambda: sql.rows(holder), seconds=15, what="the rows are locked")
        script = f"SET LOCAL lock_timeout = '2s'; {scratched(tasks.FINISH_ALL)}"
        assert as_worker(stack, script) == []
    finally:
        sql.rows(f"SELECT pg_terminate_backend(pid) FROM ({holder}) AS held")
