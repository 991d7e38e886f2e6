"""Far more callers than the path can serve, and callers that give up."""

from __future__ import annotations

import time

import pytest

from tests.faults.load import Sample
from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_nothing_left,
    check_writes,
    quantile,
)
from tests.fix_api import ASSESSMENTS, Api, assessment_body
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, during, metrics_of

BASE_THREADS, OVERLOAD = 20, 10
# More callers than the api has threads; a pause shorter than the pooler's patience.
WAITING_CALLERS, PAUSED_SECONDS = 60, 3.0


def good_per_second(samples: list[Sample]) -> float:
    """Return the rate of good answers from the first to the last sample."""
    good = [one for one in samples if 200 <= one.status < 300]
    return len(good) / (max(one.ended for one in samples) - min(one.started for one in samples))


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_ten_times_overload_is_answered_with_503_and_steady_goodput(
    sql: Sql, make_load: MakeLoad, deadline_seconds: float
) -> None:
    with make_load(threads=BASE_THREADS, pause_seconds=0) as base:
        hold(10)
    with make_load(threads=BASE_THREADS * OVERLOAD, pause_seconds=0) as load:
        hold(20)
    check_answers(load.samples)
    check_deadlines(load, deadline_seconds)
    assert good_per_second(load.of()) > good_per_second(base.of()) / 2
    health = [one.seconds for one in load.of("health")]
    assert {one.status for one in load.of("health")} == {200}
    assert quantile(health, 0.99) < quantile([one.seconds for one in load.of()], 0.99)
    check_writes(load, sql)
    check_nothing_left(sql, seconds=240)


@pytest.mark.slow
def test_a_write_that_waited_in_the_poolers_queue_does_not_happen_later(
    stack: Stack, api: Api, sql: Sql, console: AdminConsole, unique_key: str
) -> None:
    console.on_all("PAUSE risk")
    try:
        answer = api.submit(assessment_body(), key=unique_key)
    finally:
        console.on_all("RESUME risk")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"].isdigit()
    assert answer.json()["error"]["pool"]
    assert api.http.get(f"{ASSESSMENTS}/00000000-0000-0000-0000-000000000000").status_code == 404
    hold(1)
    written = f"SELECT count(*) FROM risk.assessments WHERE idempotency_key = '{unique_key}'"
    assert sql.value(written) == "0"


def test_liveness_and_metrics_answer_while_every_request_thread_waits(
    stack: Stack, api: Api, console: AdminConsole, make_load: MakeLoad
) -> None:
    with make_load(threads=WAITING_CALLERS, pause_seconds=0) as load:
        wait_for_traffic(load)
        console.on_all("PAUSE risk")
        try:
            seconds = []
            for _ in during(PAUSED_SECONDS):
                started = time.monotonic()
                assert api.http.get("/health/live").status_code == 200
                seconds.append(time.monotonic() - started)
                started = time.monotonic()
                assert "dbpool_waiting" in metrics_of(stack.container("api"))
                seconds.append(time.monotonic() - started)
        finally:
            console.on_all("RESUME risk")
    stuck = [one.seconds for one in load.of() if one.seconds > PAUSED_SECONDS / 2]
    assert len(stuck) >= WAITING_CALLERS / 2, "the request threads did not wait"
    # A scrape is a program in the container, and takes some tenths of a second.
    assert len(seconds) >= 4
    assert max(seconds) < max(stuck)
