"""A worker that dies in the middle of an assessment loses nothing and doubles nothing."""

from __future__ import annotations

import pytest

from tests.fix_api import SEOUL, Api, assessment_body
from tests.fix_sql import Sql
from tests.fix_stack import Stack, poll

SITES = 15
TASKS_OF_A_SITE = 4 * 80
RESULTS_OF_A_TASK = 9


@pytest.mark.slow
def test_sigkill_in_mid_assessment_leaves_every_task_done_and_each_result_once(
    stack: Stack, api: Api, sql: Sql
) -> None:
    sites = [{**SEOUL, "site_id": f"site-{number}"} for number in range(SITES)]
    workers = stack.containers("worker")
    response = api.submit(assessment_body(*sites))
    assert response.status_code == 202, response.text
    assessment_id = response.json()["assessment_id"]
    try:
        poll(
            lambda: api.status(assessment_id)["done_tasks"] > 0,
            seconds=20,
            what="the first batch is done",
            every=0.005,
        )
        for worker in workers:
            worker.kill("SIGKILL")
        assert api.status(assessment_id)["done_tasks"] < SITES * TASKS_OF_A_SITE
        leased = sql.value(
            "SELECT count(*) FROM risk.tasks WHERE state = 'running'"
            f" AND assessment_id = '{assessment_id}'"
        )
        assert int(leased) > 0, "no batch was in flight when the worker died"
    finally:
        for worker in workers:
            worker.start()
    final = api.wait_finished(assessment_id, seconds=150)
    stack.wait_healthy()

    assert final["status"] == "succeeded"
    assert (final["done_tasks"], final["failed_tasks"]) == (SITES * TASKS_OF_A_SITE, 0)
    for table in ("exposure_results", "vulnerability_results", "aal_scaled_results"):
        (row,) = sql.rows(
            "SELECT count(*) AS all_rows,"
            " count(DISTINCT (site_no, scenario, year, risk_type)) AS distinct_rows"
            f" FROM risk.{table} WHERE assessment_id = '{assessment_id}'"
        )
        expected = str(SITES * TASKS_OF_A_SITE * RESULTS_OF_A_TASK)
        assert (row["all_rows"], row["distinct_rows"]) == (expected, expected)
