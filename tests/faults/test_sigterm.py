"""SIGTERM: what is in flight is finished, leases are given back, nothing is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.oracle import check_nothing_left, check_writes, describe
from tests.fix_api import SEOUL, Api, assessment_body
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll


def stop(stack: Stack, service: str) -> list[int]:
    """Stop every container of a service by SIGTERM; return how each first process ended."""
    containers = stack.containers(service)
    for container in containers:
        container.stop()
    for container in containers:
        container.reload()
    return [container.attrs["State"]["ExitCode"] for container in containers]


@pytest.mark.usefixtures("whole_again")
def test_the_api_finishes_what_is_in_flight(
    stack: Stack, sql: Sql, console: AdminConsole, make_load: MakeLoad
) -> None:
    containers = stack.containers("api")
    with make_load() as load, ThreadPoolExecutor(1) as stopper:
        wait_for_traffic(load)
        console.on_all("PAUSE risk")
        try:
            hold(1)
            stopping = time.monotonic()
            codes = stopper.submit(stop, stack, "api")
            hold(1)
        finally:
            console.on_all("RESUME risk")
        assert codes.result() == [0]
        for container in containers:
            container.start()
        stack.wait_healthy()
        hold(3)
    in_flight = [one for one in load.of() if one.started < stopping < one.ended]
    assert len(in_flight) >= load.threads / 2, "hardly a request was in flight"
    assert {one.status for one in in_flight} <= {200, 202}, describe(in_flight)
    assert not [one for one in load.samples if one.status >= 500], describe(load.samples)
    check_writes(load, sql)
    check_nothing_left(sql)


@pytest.mark.usefixtures("whole_again")
def test_the_worker_gives_its_leases_back(stack: Stack, api: Api, sql: Sql) -> None:
    workers = stack.containers("worker")
    sites = [{**SEOUL, "site_id": f"site-{number}"} for number in range(30)]
    assessment_id = api.submit(assessment_body(*sites)).json()["assessment_id"]
    try:
        poll(
            lambda: api.status(assessment_id)["done_tasks"] > 0,
            seconds=20,
            what="the worker has begun",
            every=0.005,
        )
        codes = stop(stack, "worker")
        leased = sql.value("SELECT count(*) FROM risk.tasks WHERE state = 'running'")
        attempts = sql.value(
            "SELECT coalesce(max(attempt), 0) FROM risk.tasks WHERE state = 'queued'"
            f" AND assessment_id = '{assessment_id}'"
        )
    finally:
        for worker in workers:
            worker.start()
    assert codes == [0] * len(workers)
    assert leased == "0", "leases without a worker"
    assert attempts == "0", "an attempt that was given back counts against the task"
    final = api.wait_finished(assessment_id, seconds=60)
    assert (final["status"], final["done_tasks"]) == ("succeeded", 30 * 320)
