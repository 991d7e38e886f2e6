"""Leases that run out and commits in doubt: no worker writes twice, or for another's lease."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fix_api import Api, assessment_body
from tests.fix_probe import Probe
from tests.fix_sql import Sql
from tests.fix_stack import Stack, poll


@pytest.fixture(scope="module")
def no_worker(stack: Stack, sql: Sql) -> Iterator[None]:
    """Stop the workers once nothing is left to do; start them again afterwards."""
    unfinished = "SELECT count(*) FROM risk.assessments WHERE finished_at IS NULL"
    poll(lambda: sql.value(unfinished) == "0", seconds=120, what="the workers are done")
    workers = stack.containers("worker")
    for worker in workers:
        worker.stop()
    yield
    for worker in workers:
        worker.start()
    stack.wait_healthy()


@pytest.fixture(scope="module")
def walked(
    no_worker: None, api: Api, probe: Probe, settings: dict[str, str]
) -> tuple[str, dict[str, Any]]:
    """Walk one task through the life of a lease, without a worker beside it."""
    body = assessment_body(scenarios=["SSP245"], years={"from": 2030, "to": 2030})
    assessment_id = api.submit(body).json()["assessment_id"]
    return assessment_id, probe("fence", settings["WORKER_TASK_ATTEMPTS_MAX"], service="worker")


def test_a_leased_task_is_leased_once(walked: tuple[str, dict[str, Any]]) -> None:
    assert walked[1]["leased_twice_at_once"] is False


def test_a_lease_that_ran_out_is_claimed_under_the_next_attempt(
    walked: tuple[str, dict[str, Any]],
) -> None:
    assert walked[1]["attempts"] == [1, 2]


def test_the_former_holder_can_neither_complete_nor_release(
    walked: tuple[str, dict[str, Any]], sql: Sql
) -> None:
    assessment_id, report = walked
    assert report["late_completion_refused"] is True
    assert report["late_release_changed"] == 0
    assert report["released"] == 1
    assert report["released_completion_refused"] is True
    for table in ("exposure_results", "vulnerability_results", "aal_scaled_results"):
        where = f"assessment_id = '{assessment_id}'"
        assert sql.value(f"SELECT count(*) FROM risk.{table} WHERE {where}") == "0"


def test_a_lookup_waits_for_the_commit_of_its_claim(
    walked: tuple[str, dict[str, Any]],
) -> None:
    assert walked[1]["found_before_its_commit"] is True


def test_a_task_whose_every_holder_dies_fails_and_says_so(
    walked: tuple[str, dict[str, Any]], api: Api, settings: dict[str, str]
) -> None:
    assessment_id, report = walked
    attempts = int(settings["WORKER_TASK_ATTEMPTS_MAX"])
    assert report["last_attempt"] == attempts
    assert report["claimable_after_the_last"] is False
    (error,) = report["lost"]
    assert report["lost_found"] == [True, False]
    assert f"attempt {attempts} of {attempts}" in error
    assert report["ended"] == ["failed"]
    document = api.status(assessment_id)
    assert (document["status"], document["failed_tasks"]) == ("failed", 1)
    assert error in str(document)


@pytest.mark.usefixtures("no_worker")
def test_a_commit_in_doubt_is_resolved_with_failures_beside_results(
    api: Api, sql: Sql, probe: Probe
) -> None:
    body = assessment_body(scenarios=["SSP245"], years={"from": 2030, "to": 2032})
    ids = [api.submit(body).json()["assessment_id"] for _ in range(2)]
    counts = probe("batch_commit", "2031", service="worker")
    assert counts == {
        "done": 4,
        "failed": 2,
        "retried": 0,
        "found": 1,
        "repeated": 2,
        "unknown": None,
    }
    for assessment_id in ids:
        document = api.status(assessment_id)
        assert document["status"] == "failed"
        assert (document["done_tasks"], document["failed_tasks"]) == (2, 1)
        rows = (
            f"SELECT count(*) FROM risk.aal_scaled_results WHERE assessment_id = '{assessment_id}'"
        )
        assert sql.value(rows) == "18"
