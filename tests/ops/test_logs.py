"""What the logs of a running stack say of one request, and PostgreSQL of each statement."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import command
from tests.command import Done
from tests.fix_api import ASSESSMENTS, Api, assessment_body
from tests.fix_sql import Sql, run_psql
from tests.fix_stack import Stack, on_host, poll, run_in

Logs = Callable[..., Done]


@pytest.fixture
def logs(stack: Stack) -> Logs:
    """Return make logs, with the options that the target gives its script."""

    def run(*options: str) -> Done:
        return command.run(
            *on_host("logs.sh"), *options, env={"COMPOSE_PROJECT_NAME": stack.project}
        )

    return run


def lines(done: Done) -> list[dict[str, Any]]:
    """Return the lines of a run with --json."""
    assert done.exit_code == 0, done.text
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def locked_table(stack: Stack, sql: Sql) -> Iterator[None]:
    """Hold a lock within the block that every submission waits for."""
    postgres = stack.container("postgres")
    statements = "BEGIN; LOCK TABLE risk.assessments IN EXCLUSIVE MODE; SELECT pg_sleep(60)"
    holder = threading.Thread(
        target=run_in, args=(postgres, ["psql", "--dbname=risk", "--command", statements])
    )
    holder.start()
    where = "FROM pg_stat_activity WHERE usename = 'postgres' AND query LIKE 'BEGIN; LOCK TABLE%'"
    held = f"SELECT count(*) {where} AND wait_event = 'PgSleep'"
    poll(lambda: sql.value(held) == "1", seconds=20, what="the lock is held")
    try:
        yield
    finally:
        sql.rows(f"SELECT pg_terminate_backend(pid) {where}")
        holder.join(60)


def test_one_request_is_shown_across_the_tiers(
    stack: Stack, sql: Sql, api: Api, logs: Logs
) -> None:
    request = f"test-{uuid.uuid4().hex}"
    waiting = f"pg_stat_activity WHERE application_name = 'sluice-api/submit/{request}'"
    answers: list[Any] = []

    def submit() -> None:
        # The lock may last for longer than all tries of one call.
        while not answers or (answers[-1].status_code == 503 and len(answers) < 20):
            answers.append(
                api.http.post(
                    ASSESSMENTS, json=assessment_body(), headers={"X-Request-ID": request}
                )
            )

    caller = threading.Thread(target=submit)
    with locked_table(stack, sql):
        caller.start()
        # A session is known by the request that it works for; this one is ended, and so is the
        # connection through PgBouncer: the pool tries again.
        ended = (
            f"SELECT count(pg_terminate_backend(pid)) FROM {waiting} AND wait_event_type = 'Lock'"
        )
        poll(lambda: sql.value(ended) == "1", seconds=10, what="the submission waits", every=0.05)
        server = stack.container("postgres")
        waits = f"/{request} "
        poll(
            lambda: [
                line
                for line in server.logs(tail=200).decode().splitlines()
                if waits in line and "still waiting for" in line
            ],
            seconds=10,
            what="the next try waits for long enough to be logged",
        )
    caller.join(30)
    answer = answers[-1]
    assert answer.status_code == 202, answer.text
    api.wait_finished(answer.json()["assessment_id"])

    def found() -> list[dict[str, Any]] | None:
        seen = lines(logs("--request", request, "--json"))
        return (
            seen
            if {"api", "worker", "pgbouncer", "postgres"} <= {one["tier"] for one in seen}
            else None
        )

    seen = poll(found, seconds=30, what="lines of every tier") or []
    assert [one["time"] for one in seen] == sorted(one["time"] for one in seen)
    messages = {
        one["tier"]: [line["message"] for line in seen if line["tier"] == one["tier"]]
        for one in seen
    }
    assert {"connection discarded", "assessment accepted", "request"} <= set(messages["api"])
    assert "batch completed" in messages["worker"]
    assert any("pooler error" in one for one in messages["pgbouncer"])
    assert any("still waiting for" in one for one in messages["postgres"])
    assert any("terminating connection" in one for one in messages["postgres"])
    # The same for people.
    done = logs("--request", request)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) >= len(seen)


def test_an_unknown_request_is_exit_code_1(logs: Logs) -> None:
    done = logs("--request", uuid.uuid4().hex)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "has the request id" in done.stderr


def test_every_line_has_the_fields_of_the_schema(logs: Logs) -> None:
    seen = lines(logs("--json", "--no-follow", "--lines", "50"))
    assert {"api", "worker", "pgbouncer", "postgres"} <= {one["tier"] for one in seen}
    for one in seen:
        assert list(one)[:5] == ["time", "tier", "container", "level", "message"]
    # Each form is known: of these tiers only a statement's plan has lines without one.
    unknown = [one for one in seen if one["tier"] in ("api", "worker") and not one["level"]]
    assert unknown == []


def test_pg_stat_statements_names_the_work_of_a_statement(sql: Sql, api: Api) -> None:
    # What an older image left keeps the text that it had first.
    sql.rows(
        "SELECT public.pg_stat_statements_reset(userid, dbid, queryid)"
        " FROM public.pg_stat_statements WHERE query NOT LIKE '/*action=%'"
        " AND query LIKE '%risk.assessments%'"
    )
    finished = api.run(assessment_body())
    api.http.get(f"{ASSESSMENTS}/{finished['assessment_id']}/summary").raise_for_status()
    found = sql.rows(
        "SELECT DISTINCT rolname, substring(query FROM '^/[*]action=''([^'']+)''[*]/ ') AS action"
        " FROM public.pg_stat_statements JOIN pg_roles AS r ON r.oid = userid"
        " WHERE rolname IN ('risk_api', 'risk_worker')"
    )
    actions = {(row["rolname"], row["action"]) for row in found}
    assert {("risk_api", "submit"), ("risk_api", "status"), ("risk_api", "summary")} <= actions
    assert {("risk_worker", "claim"), ("risk_worker", "complete")} <= actions


def test_no_id_of_a_request_is_kept_as_a_statement_or_a_metric(
    stack: Stack, sql: Sql, api: Api
) -> None:
    request = f"test-{uuid.uuid4().hex}"
    answer = api.http.post(ASSESSMENTS, json=assessment_body(), headers={"X-Request-ID": request})
    assert answer.status_code == 202
    kept = f"SELECT count(*) FROM public.pg_stat_statements WHERE query LIKE '%{request}%'"
    assert sql.value(kept) == "0"
    # What an exporter looks at in place of pg_stat_activity.
    (shown,) = run_psql(
        stack.container("postgres"),
        ["--username=postgres", "dbname=risk application_name=sluice-api/submit/1"],
        "SELECT application_name FROM sluice.pg_stat_activity WHERE pid = pg_backend_pid()",
    )
    assert shown == {"application_name": "sluice-api/submit"}
