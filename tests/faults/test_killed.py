"""Connections and processes that end without warning."""

from __future__ import annotations

import time

import pytest

from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_recovery,
    check_writes,
)
from tests.fix_api import ASSESSMENTS, Api
from tests.fix_faults import MakeLoad, hold, killed, wait_for_traffic
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll

BACKENDS_A_SECOND, SECONDS = 2, 60
END_RANDOM_BACKENDS = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
    " WHERE usename IN ('risk_api', 'risk_worker') ORDER BY random()"
    f" LIMIT {BACKENDS_A_SECOND}) AS victims"
)


def test_ending_two_random_backends_a_second_reaches_no_caller(
    sql: Sql, make_load: MakeLoad, deadline_seconds: float
) -> None:
    ended = 0
    with make_load() as load:
        wait_for_traffic(load)
        for _ in range(SECONDS):
            started = time.monotonic()
            ended += len(sql.rows(END_RANDOM_BACKENDS))
            hold(max(0.0, 1 - (time.monotonic() - started)))
        hold(2)
    assert ended >= SECONDS, f"only {ended} backends were ended"
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql)


def test_a_hundred_requests_succeed_after_the_pooler_cut_every_idle_connection(
    stack: Stack, api: Api, console: AdminConsole
) -> None:
    def clients() -> int:
        return sum(
            row["database"] == "risk"
            for replica in range(len(stack.containers("pgbouncer")))
            for row in console.show("CLIENTS", replica=replica)
        )

    poll(lambda: clients() > 0, seconds=10, what="the api holds connections")
    console.on_all("KILL risk")
    console.on_all("RESUME risk")
    answers = [
        api.http.get(f"{ASSESSMENTS}/00000000-0000-0000-0000-000000000000").status_code
        for _ in range(100)
    ]
    assert answers == [404] * 100


@pytest.mark.usefixtures("whole_again")
def test_one_killed_pooler_is_felt_by_its_own_requests_only(
    stack: Stack, sql: Sql, make_load: MakeLoad, deadline_seconds: float
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        with killed(stack.containers("pgbouncer")[:1]):
            died = time.monotonic()
            hold(10)
        hold(5)
    check_answers(load)
    check_deadlines(load, deadline_seconds)
    check_recovery(load, died, 2)
    check_writes(load, sql)
    check_nothing_left(sql)
