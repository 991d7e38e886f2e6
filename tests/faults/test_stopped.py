"""A tier that is away for longer than a caller can wait, and a pause, which is none."""

from __future__ import annotations

import statistics
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_nothing_left,
    check_recovery,
    check_writes,
)
from tests.fix_api import ASSESSMENTS, Api
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, metrics_of, poll

RECOVERY_SECONDS = 5.0
UNKNOWN = f"{ASSESSMENTS}/00000000-0000-0000-0000-000000000000"


def unreachable(stack: Stack) -> bool:
    """Return True while the api's pool refuses callers at once."""
    families = text_string_to_metric_families(metrics_of(stack.container("api")))
    (value,) = (
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "dbpool_unreachable"
    )
    return value == 1


@pytest.mark.usefixtures("whole_again")
@pytest.mark.slow
@pytest.mark.parametrize("tier", ["postgres", "pgbouncer"])
def test_a_long_outage_is_answered_at_once_and_its_end_is_noticed(
    stack: Stack, api: Api, sql: Sql, make_load: MakeLoad, deadline_seconds: float, tier: str
) -> None:
    stopped = stack.containers(tier)
    with make_load() as load:
        wait_for_traffic(load)
        try:
            for container in stopped:
                container.stop()
            poll(lambda: unreachable(stack), seconds=60, what="the pool knows of the outage")
            # A request that waits already has to come to its own end.
            hold(deadline_seconds / 2)
            known = time.monotonic()
            hold(3)
            until = time.monotonic()
        finally:
            for container in stopped:
                container.start()
        ended = poll(
            lambda: api.http.get(UNKNOWN).status_code == 404 and time.monotonic(),
            seconds=60,
            what="the api serves again",
            every=0.05,
        )
        hold(RECOVERY_SECONDS + 2)
    refused = [one for one in load.of() if known < one.started < until]
    assert {one.status for one in refused} == {503}
    assert statistics.median(one.seconds for one in refused) < deadline_seconds / 20
    check_answers(load.samples)
    check_deadlines(load, deadline_seconds)
    check_recovery(load, ended, RECOVERY_SECONDS)
    check_writes(load, sql)
    check_nothing_left(sql)


def test_a_pause_is_waited_for_and_never_taken_for_an_outage(
    stack: Stack, api: Api, console: AdminConsole
) -> None:
    console.on_all("PAUSE risk")
    try:
        answer = api.http.get(UNKNOWN)
        assert not unreachable(stack)
    finally:
        console.on_all("RESUME risk")
    assert answer.status_code == 503
    assert not answer.json()["error"]["pool"]["unreachable"]
    assert api.http.get(UNKNOWN).status_code == 404
