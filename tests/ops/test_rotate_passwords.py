"""Passwords rotated under load: no request fails, and the old ones are refused."""

from __future__ import annotations

import time

import pytest
from docker.models.containers import Container

from tests.faults.oracle import (
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_writes,
)
from tests.fix_api import Api, assessment_body
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_ops import Commands
from tests.fix_probe import Probe
from tests.fix_secrets import Given, Secrets
from tests.fix_sql import Sql
from tests.fix_stack import Stack

BAD_INPUT = 2
# Sessions of the app that are older than a moment.
APP_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('risk_api', 'risk_worker')"
    " AND backend_start < to_timestamp({})"
)


@pytest.mark.usefixtures("whole_again")
def test_passwords_are_rotated_under_load_without_a_failure_and_the_old_are_refused(
    stack: Stack,
    api: Api,
    sql: Sql,
    ops: Commands,
    probe: Probe,
    secrets: Secrets,
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    names = [f"{role}.password" for role in ("risk_api", "risk_worker", "sluice_operator")]
    old = {name: secrets.read(name) for name in [*names, "api-control.token"]}
    with make_load() as load:
        wait_for_traffic(load)
        began = time.time()
        done = ops.run("rotate", "passwords")
        assert done.exit_code == 0, done.text
        hold(5)
    new = {name: secrets.read(name) for name in old}
    assert not set(old.values()) & set(new.values())
    for service in ("api", "worker"):
        refused = probe("connect", f"password={old[f'risk_{service}.password']}", service=service)
        assert "SASL authentication failed" in refused["error"]
        assert probe("connect", "sql:SELECT 1", service=service)["errors"] == [""]
    assert sql.value(APP_SESSIONS.format(began)) == "0"
    assert not any(secret in done.text for secret in (*old.values(), *new.values()))
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql, seconds=240)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_server_connections_that_end_all_the_time_do_not_make_a_rotation_fail_requests(
    stack: Stack, sql: Sql, ops: Commands, make_load: MakeLoad
) -> None:
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'risk_api'"
    with make_load() as load:
        wait_for_traffic(load)
        process = ops.start("rotate", "passwords")
        while process.poll() is None:
            sql.rows(f"{ended} ORDER BY random() LIMIT 1")
            hold(0.2)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stdout + stderr
        hold(3)
    check_no_failure(load)
    check_writes(load, sql)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("moment", ["begun", "files", "switched"])
def test_a_rotation_that_was_killed_is_finished_by_running_it_again(
    stack: Stack,
    api: Api,
    ops: Commands,
    secrets: Secrets,
    make_load: MakeLoad,
    moment: str,
) -> None:
    marks = {
        "begun": "[ -e /secrets/rotation/what ]",
        "files": "[ -e /secrets/rotation/what ] && [ /out/pgbouncer/userlist.txt -nt /tmp/now ]",
        "switched": "[ -e /secrets/rotation/what ] && [ /out/app/api.password -nt /tmp/now ]",
    }
    watch = f"touch /tmp/now; until {marks[moment]}; do sleep 0.01; done"
    with make_load(threads=2) as load:
        wait_for_traffic(load)
        process = ops.start("rotate", "passwords")
        secrets.sh(watch)
        for container in oneoffs(stack):
            container.kill("SIGKILL")
        process.wait(60)
        done = ops.run("rotate", "passwords")
        assert done.exit_code == 0, done.text
        hold(2)
    assert secrets.sh("ls -A /secrets | grep rotation || true") == ""
    check_no_failure(load)
    assert api.run(assessment_body())["status"] == "succeeded"


def oneoffs(stack: Stack) -> list[Container]:
    """Return the operator commands that run now."""
    labels = [
        f"com.docker.compose.project={stack.project}",
        "com.docker.compose.service=ops",
        "com.docker.compose.oneoff=True",
    ]
    return list(stack.client.containers.list(filters={"label": labels}))


@pytest.mark.usefixtures("whole_again")
def test_a_chosen_password_is_taken_and_an_unusable_one_named(
    probe: Probe, secrets: Secrets, given: Given
) -> None:
    before = secrets.read("risk_api.password")
    (given.path / "risk_api.password").write_text("short", encoding="ascii")
    done = given.rotate("passwords")
    assert done.exit_code == BAD_INPUT, done.text
    assert "risk_api.password: has 5 characters" in done.text
    assert secrets.read("risk_api.password") == before
    chosen = f"chosen-by-an-operator-{time.time_ns()}"
    (given.path / "risk_api.password").write_text(chosen, encoding="ascii")
    done = given.rotate("passwords")
    assert done.exit_code == 0, done.text
    assert secrets.read("risk_api.password") == chosen
    assert probe("connect", f"password={chosen}")["connected"]
    done = given.rotate("passwords")
    assert done.exit_code == BAD_INPUT, done.text
    assert "is the present one" in done.text
