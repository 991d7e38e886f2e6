"""Hops on which bytes come one at a time, late, or not to their end: data are right or missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_nothing_left,
    check_recovery,
    check_writes,
)
from tests.fix_api import ASSESSMENTS, Api, assessment_body
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack, poll

# PostgreSQL's, whose socket it is.
USER = "10070:10070"
STOP_SECONDS = 10
KINDS = ("slices", "delay", "reset")


def test_what_a_client_reads_over_a_bad_hop_is_right_or_an_error(probe: Probe) -> None:
    found = probe("bad_hop", "client")
    assert {kind: one["wrong"] for kind, one in found.items()} == dict.fromkeys(KINDS, 0)
    assert {kind: one["errors"] for kind, one in found.items() if one["errors"]}.keys() == {"reset"}
    assert found["slices"]["right"] == found["delay"]["right"] > 1


def renewed(stack: Stack, console: AdminConsole) -> None:
    """Have every server connection made anew, over what is PostgreSQL's socket now."""
    console.on_all("RECONNECT")
    replicas = len(stack.containers("pgbouncer"))
    poll(
        lambda: (
            not any(
                row["close_needed"] == "1"
                for one in range(replicas)
                for row in console.show("SERVERS", replica=one)
            )
        ),
        seconds=30,
        what="new server connections",
    )


@contextmanager
def bad_server_hop(stack: Stack, console: AdminConsole, kind: str) -> Iterator[None]:
    """Have PgBouncer reach PostgreSQL over a bad hop for the length of the block."""
    proxy = stack.client.containers.run(
        stack.container("api").attrs["Config"]["Image"],
        ["python", "-m", "tests.stack.probes.bad_hop", "server", kind],
        user=USER,
        network_mode="none",
        volumes={
            f"{stack.project}_postgres-socket": {"bind": "/run/postgresql", "mode": "rw"},
            str(REPOSITORY / "tests"): {"bind": "/opt/sluice/tests", "mode": "ro"},
        },
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
        read_only=True,
        cap_drop=["ALL"],
        detach=True,
    )
    try:
        poll(lambda: b"stands in" in proxy.logs(), seconds=20, what="the hop stands in")
        renewed(stack, console)
        yield
    finally:
        # It puts the socket back.
        proxy.stop(timeout=STOP_SECONDS)
        printed = proxy.logs().decode()
        proxy.remove(force=True)
        renewed(stack, console)
    assert json.loads(printed.splitlines()[-1])["connections"] > 0


def rows(api: Api, assessment_id: str) -> str:
    """Return all results as CSV."""
    answer = api.http.get(f"{ASSESSMENTS}/{assessment_id}/results?format=csv")
    return answer.raise_for_status().text


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("kind", ["slices", "delay"])
def test_results_over_a_bad_hop_to_the_server_are_those_of_a_good_one(
    stack: Stack, api: Api, console: AdminConsole, sql: Sql, kind: str
) -> None:
    body = assessment_body(years={"from": 2030, "to": 2039})
    before = api.run(body)
    with bad_server_hop(stack, console, kind):
        during = api.run(body, seconds=90)
        assert during["status"] == "succeeded"
        seen = rows(api, during["assessment_id"])
    assert seen == rows(api, before["assessment_id"]) == rows(api, during["assessment_id"])
    check_nothing_left(sql)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_resets_in_the_middle_of_results_lose_no_write_and_reach_callers_as_503_at_most(
    stack: Stack,
    sql: Sql,
    console: AdminConsole,
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        with bad_server_hop(stack, console, "reset"):
            hold(10)
        ended = load.samples[-1].ended
        hold(5)
    check_answers(load.samples)
    check_deadlines(load, deadline_seconds)
    check_recovery(load, ended, 3)
    check_writes(load, sql)
    check_nothing_left(sql)
