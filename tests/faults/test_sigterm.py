"""SIGTERM to the api under load: what is in flight is finished, nothing is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.oracle import check_nothing_left, check_writes, describe
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack


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
