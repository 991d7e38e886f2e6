"""SIGTERM: a process ends what it has in hand, gives back the rest and leaves nothing open."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from docker.models.containers import Container

from tests.fix_api import ASSESSMENTS, SEOUL, Api, assessment_body
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll

SITES = 30
LEASED = "SELECT count(*) FROM risk.tasks WHERE state = 'running'"


@pytest.fixture
def stopped(stack: Stack) -> Iterator[list[Container]]:
    """Collect the containers a test stops; start them again whatever happens."""
    containers: list[Container] = []
    yield containers
    for container in containers:
        container.start()
    stack.wait_healthy(seconds=60)


def stop(container: Container) -> tuple[float, dict[str, Any]]:
    """Stop a container as Docker does; return the seconds it took and its last state."""
    started = time.monotonic()
    container.stop()
    seconds = time.monotonic() - started
    container.reload()
    return seconds, dict(container.attrs["State"])


def connected(stack: Stack, console: AdminConsole, user: str) -> int:
    """Return how many connections a role has to all PgBouncers."""
    return sum(
        row["user"] == user
        for replica in range(len(stack.containers("pgbouncer")))
        for row in console.show("CLIENTS", replica=replica)
    )


def test_a_stopped_worker_leaves_no_lease_and_no_connection(
    stack: Stack, api: Api, sql: Sql, console: AdminConsole, stopped: list[Container]
) -> None:
    sites = [{**SEOUL, "site_id": f"site-{number}"} for number in range(SITES)]
    accepted = api.submit(assessment_body(*sites)).json()["assessment_id"]
    poll(lambda: int(sql.value(LEASED)) > 0, seconds=20, what="a batch is in hand", every=0.0)
    stopped += stack.containers("worker")
    threads = [threading.Thread(target=stop, args=(one,)) for one in stopped]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for container in stopped:
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0
        assert b'"worker stopped"' in container.logs(tail=20)
    assert sql.value(LEASED) == "0"
    attempts = sql.value(
        "SELECT coalesce(max(attempt), 0) FROM risk.tasks WHERE state = 'queued'"
        f" AND assessment_id = '{accepted}'"
    )
    assert attempts == "0", "an attempt that was given back counts against the task"
    assert connected(stack, console, "risk_worker") == 0
    for container in stopped:
        container.start()
    final = api.wait_finished(accepted)
    assert (final["status"], final["done_tasks"]) == ("succeeded", SITES * 320)


def answered(container: Container, path: str) -> list[int]:
    """Return the status of every request to a path that the api's log has."""
    lines = container.logs().decode().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    requests = [one for one in events if one.get("event") == "request" and one["path"] == path]
    return [one["status"] for one in requests]


def test_a_stopped_api_answers_every_request_it_took(
    stack: Stack,
    api: Api,
    console: AdminConsole,
    stopped: list[Container],
    settings: dict[str, str],
) -> None:
    """What its caller did not hear of, it never began."""
    path = f"{ASSESSMENTS}/{api.run(assessment_body())['assessment_id']}/summary"
    answers: list[int] = []

    def call_until_refused() -> None:
        with suppress(httpx.TransportError):
            while True:
                # One connection for each request: none is kept that the stop could close.
                url = f"http://127.0.0.1:{settings['API_PORT']}{path}"
                answer = httpx.get(url, timeout=30, headers={"Connection": "close"})
                answers.append(answer.status_code)

    callers = [threading.Thread(target=call_until_refused) for _ in range(6)]
    for caller in callers:
        caller.start()
    poll(lambda: len(answers) > 20, seconds=20, what="requests are answered")
    stopped += stack.containers("api")
    (container,) = stopped
    seconds, state = stop(container)
    for caller in callers:
        caller.join(40)
    assert state["ExitCode"] == 0
    assert seconds < float(settings["API_SHUTDOWN_GRACE_SECONDS"])
    assert connected(stack, console, "risk_api") == 0
    assert set(answers) == {200}
    assert answered(container, path) == answers


def test_an_open_event_stream_does_not_hold_a_stop_up(
    stack: Stack, api: Api, stopped: list[Container], settings: dict[str, str]
) -> None:
    stopped += stack.containers("worker")
    for container in stopped:
        container.kill("SIGKILL")
    accepted = api.submit(assessment_body()).json()["assessment_id"]
    base = f"http://127.0.0.1:{settings['API_PORT']}"
    (container,) = stack.containers("api")
    with httpx.stream("GET", f"{base}{ASSESSMENTS}/{accepted}/events", timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        stopped.append(container)
        seconds, state = stop(container)
    assert state["ExitCode"] == 0
    assert seconds < 10
