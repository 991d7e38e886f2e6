"""What the api says of its last minute, and what status makes of several processes'."""

from __future__ import annotations

import itertools
import random

import pytest
from fastapi.testclient import TestClient

from app.metrics import LastMinute
from app.pool import DatabaseUnavailable
from infra.ops.status.collect import last_minute
from tests.unit.service.conftest import STATE, StandInDatabase


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_counts_for_a_minute_and_no_longer() -> None:
    clock = Clock()
    minute = LastMinute(clock)
    minute.observe(503, 0.2)
    clock.now += 59
    minute.observe(200, 0.2)
    assert last_minute([minute.state()]).requests == 2
    assert minute.state()["errors"] == 1
    clock.now += 1
    assert last_minute([minute.state()]).requests == 1
    assert minute.state()["errors"] == 0
    clock.now += 3600
    assert minute.state() == {"errors": 0, "buckets": []}


def test_an_hour_of_answers_keeps_no_more_than_a_minute_of_slots() -> None:
    clock = Clock()
    minute = LastMinute(clock)
    for _ in range(3600):
        minute.observe(200, 0.01)
        clock.now += 1
    assert last_minute([minute.state()]).requests == 59
    assert len(minute._seconds) == 60


def test_p95_of_two_processes_is_that_of_all_their_answers() -> None:
    draw = random.Random(7)  # noqa: S311  # made-up times
    seconds = [[draw.lognormvariate(-3, 1) for _ in range(count)] for count in (3000, 500)]
    states = []
    for times in seconds:
        minute = LastMinute(Clock())
        for one in times:
            minute.observe(200, one)
        states.append(minute.state())
    found = last_minute(states)
    exact = sorted(itertools.chain(*seconds))[int(0.95 * 3500) - 1]
    assert found.requests == 3500
    assert found.p95_seconds is not None
    assert exact <= found.p95_seconds <= 1.25 * exact


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 40.0])
def test_no_time_is_too_short_or_too_long(seconds: float) -> None:
    minute = LastMinute(Clock())
    minute.observe(200, seconds)
    p95 = last_minute([minute.state()]).p95_seconds
    assert p95 is not None
    assert seconds <= p95 <= max(0.001, 1.25 * seconds)


def test_without_a_request_there_is_no_p95() -> None:
    assert last_minute([LastMinute().state()]).p95_seconds is None


def test_requests_of_the_api_count_and_health_checks_do_not(
    client: TestClient, database: StandInDatabase
) -> None:
    database.answers["status"] = DatabaseUnavailable("gone", STATE)
    path = "/api/v1/site-assessments"
    assert client.get(f"{path}/00000000-0000-4000-8000-000000000000").status_code == 503
    assert client.get(f"{path}/nonsense").status_code == 422
    client.get("/health/live")
    found = client.app.state.services.last_minute.state()  # type: ignore[attr-defined]
    assert (last_minute([found]).requests, found["errors"]) == (2, 1)
