"""The app restarted under load: no request fails, no task is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.faults.load import Load
from tests.faults.oracle import (
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_writes,
)
from tests.fix_api import ASSESSMENTS, SEOUL, Api, assessment_body
from tests.fix_control import Operator
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll, run_in

SCRIPT = "restart-app"
FAILED = 1


def long_assessment(api: Api, sites: int = 20) -> str:
    """Submit an assessment that is still at work when a restart begins; return its id."""
    chosen = [{**SEOUL, "site_id": f"site-{number}"} for number in range(sites)]
    answer = api.submit(assessment_body(*chosen))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["assessment_id"])


def identities(operator: Operator, service: str) -> set[tuple[str, int, str]]:
    """Return container, number and start of each process of a service."""
    states = operator.states(service)
    return {(one["instance"], one["pid"], one["started_at"]) for one in states}


def settled(operator: Operator) -> list[dict[str, Any]]:
    """Return every process's state once each runs with what its settings file says."""

    def states() -> list[dict[str, Any]]:
        found = operator.states()
        return [] if any(one["needs_restart"] for one in found) else found

    return poll(states, seconds=20, what="no process needs a restart")


def check(load: Load, sql: Sql, deadline_seconds: float) -> None:
    """Check that nobody noticed."""
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql, seconds=240)


@pytest.fixture
def own_settings_again(ops: Commands, env: EnvDir) -> Iterator[None]:
    """After the test, have the app run with the stack's own env file again."""
    yield
    done = ops.script(SCRIPT, env=env.reset())
    assert done.exit_code == 0, done.text


@pytest.mark.usefixtures("whole_again")
def test_a_restart_fails_no_request_and_loses_no_task(
    stack: Stack,
    api: Api,
    sql: Sql,
    operator: Operator,
    ops: Commands,
    env: EnvDir,
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    before = {service: identities(operator, service) for service in ("api", "worker")}
    container = stack.container("api").id
    assessment_id = long_assessment(api)
    with make_load() as load:
        wait_for_traffic(load)
        done = ops.script(SCRIPT, "--compiled", env=env)
        assert done.exit_code == 0, done.text
        hold(8)
    after = {service: identities(operator, service) for service in ("api", "worker")}
    for service, known in before.items():
        assert len(after[service]) == len(known)
        assert not after[service] & known
    assert stack.container("api").id == container
    final = api.wait_finished(assessment_id, seconds=240)
    assert (final["status"], final["failed_tasks"]) == ("succeeded", 0)
    assert final["done_tasks"] == final["total_tasks"]
    check(load, sql, deadline_seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again", "own_settings_again")
def test_what_takes_a_restart_runs_after_it(
    operator: Operator, ops: Commands, env: EnvDir, sql: Sql, make_load: MakeLoad
) -> None:
    env.set(API_THREADS=31, WORKER_THREADS=3, APP_POOL_CHECK_IDLE_SECONDS="4.0")
    with make_load() as load:
        wait_for_traffic(load)
        done = ops.script(SCRIPT, env=env)
        assert done.exit_code == 0, done.text
        hold(3)
    for state in settled(operator):
        settings = state["settings"]
        assert settings["pool"]["check_idle_seconds"] == 4.0
        if state["service"] == "api":
            assert settings["http"]["threads"] == 31
        else:
            assert settings["worker"]["threads"] == 3
    check_no_failure(load)
    check_writes(load, sql)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_three_restarts_in_a_row_under_load_fail_no_request(
    sql: Sql, ops: Commands, env: EnvDir, make_load: MakeLoad, deadline_seconds: float
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        for _ in range(3):
            done = ops.script(SCRIPT, "--compiled", "api", env=env)
            assert done.exit_code == 0, done.text
        hold(8)
    check(load, sql, deadline_seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_successor_that_is_not_ready_leaves_the_old_process_serving(
    stack: Stack,
    sql: Sql,
    console: AdminConsole,
    operator: Operator,
    ops: Commands,
    env: EnvDir,
    make_load: MakeLoad,
) -> None:
    before = identities(operator, "api")
    with make_load(threads=2) as load:
        wait_for_traffic(load)
        # What is connected stays; nobody else gets in.
        console.on_all("DISABLE risk")
        try:
            done = ops.script(SCRIPT, "--compiled", "api", env=env)
        finally:
            console.on_all("ENABLE risk")
        hold(2)
    assert done.exit_code == FAILED, done.text
    assert "restart: open: fewer than min_size connections" in done.text
    assert identities(operator, "api") == before
    check_no_failure(load)
    check_writes(load, sql)


@pytest.mark.usefixtures("whole_again")
def test_an_event_stream_ends_whole_and_its_client_goes_on_with_the_successor(
    stack: Stack, api: Api, sql: Sql, operator: Operator
) -> None:
    assessment_id = long_assessment(api)
    path = f"{ASSESSMENTS}/{assessment_id}/events"
    before = {one["pid"] for one in operator.states("api")}
    with httpx.Client(base_url=api.http.base_url, timeout=60) as http:
        with http.stream("GET", path) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("event: progress")
            stack.container("api").kill("SIGHUP")
            # A cut stream raises here: the last chunk would be missing.
            assert list(lines)

        def is_succeeded() -> bool:
            # Between the two the control plane is nobody's for a moment.
            now = {one["state"]["pid"] for one in operator.ask("state", "api") if "state" in one}
            return bool(now) and not now & before

        poll(is_succeeded, seconds=30, what="a successor")
        with http.stream("GET", path) as answer:
            assert next(answer.iter_lines()).startswith("event: ")
    assert api.wait_finished(assessment_id, seconds=240)["status"] == "succeeded"


@pytest.mark.usefixtures("whole_again")
def test_a_serving_process_that_is_killed_is_replaced_while_callers_wait(
    stack: Stack, api: Api, operator: Operator
) -> None:
    processes = operator.states("api")
    killed = processes[0]["pid"]
    container = stack.container("api")
    started = container.attrs["State"]["StartedAt"]
    kill = f"import os, signal; os.kill({killed}, signal.SIGKILL)"
    code, said = run_in(container, ["python", "-c", kill])
    assert code == 0, said
    # The socket is the first process's: a new connection is queued and not refused.
    assert httpx.get(f"{api.http.base_url}/health/live", timeout=60).status_code == 200

    def successor() -> bool:
        # The control plane is the new process's, and not there at once.
        pids = {one["state"]["pid"] for one in operator.ask("state", "api") if "state" in one}
        return len(pids) == len(processes) and killed not in pids

    poll(successor, seconds=20, what="a new process")
    container.reload()
    assert container.attrs["State"]["StartedAt"] == started
