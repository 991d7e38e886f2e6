"""PostgreSQL restarted while clients wait: nobody fails, and the pause always ends."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from docker.models.containers import Container

from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_writes,
)
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_host import EnvFile, Host
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll

SCRIPT = "restart-postgres"
# More than the api has connections: the others wait in its pool while the pause lasts.
CALLERS = 40
PAUSE_MAX_SECONDS = 10.0
DEAD_MAN_SECONDS = 20.0
# To notice, to log in to every PgBouncer, and to say so, on a machine that does more than this.
SLACK_SECONDS = 5.0
REFUSED = 3
USUAL = ("query_wait_timeout", "query_timeout", "server_login_retry")


def is_paused(stack: Stack, console: AdminConsole) -> list[bool]:
    """Tell of each replica whether it is paused."""
    replicas = range(len(stack.containers("pgbouncer")))
    states = [console.show("STATE", replica=replica) for replica in replicas]
    return [{row["key"]: row["value"] for row in rows}["paused"] == "yes" for rows in states]


def running_settings(stack: Stack, console: AdminConsole) -> list[dict[str, str]]:
    """Return the settings that a pause changes, of each replica."""
    replicas = range(len(stack.containers("pgbouncer")))
    rows = [console.show("CONFIG", replica=replica) for replica in replicas]
    return [{row["key"]: row["value"] for row in one if row["key"] in USUAL} for one in rows]


def seconds_paused(output: str) -> float:
    """Return the length of the pause that the command printed."""
    match = re.search(r"waited for at most ([0-9.]+) s", output)
    assert match, output
    return float(match[1])


def operator_container(stack: Stack) -> Container:
    """Return the container that holds the pause."""
    found = stack.client.containers.list(
        filters={
            "label": [
                f"com.docker.compose.project={stack.project}",
                "com.docker.compose.service=ops",
                "com.docker.compose.oneoff=True",
            ]
        }
    )
    (holder,) = [one for one in found if one.attrs["Config"]["Cmd"] == ["restart", "postgres"]]
    return holder


def wait_until_paused(script: subprocess.Popen[str]) -> list[str]:
    """Read the script's output until it says that clients wait."""
    assert script.stdout
    lines: list[str] = []
    for line in script.stdout:
        lines.append(line)
        if line.startswith("paused"):
            return lines
    pytest.fail("it never paused: " + "".join(lines))


@contextmanager
def open_transaction(stack: Stack, sql: Sql) -> Iterator[str]:
    """Hold a transaction open that is older than any limit; give its process id."""
    statement = "BEGIN; SELECT 'held open', pg_sleep(120)"
    stack.container("postgres").exec_run(
        ["psql", "--username=postgres", "--dbname=risk", "--command", statement], detach=True
    )
    find = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT ''held open''%'"
        " AND xact_start < now() - interval '1.5 s' AND backend_type = 'client backend'"
    )
    try:
        row = poll(lambda: sql.rows(find), seconds=15, what="the transaction is old")[0]
        yield row["pid"]
    finally:
        sql.rows(f"SELECT pg_terminate_backend(pid) FROM ({find}) AS held")


@pytest.mark.usefixtures("whole_again")
def test_a_restart_with_another_connection_limit_fails_no_request(
    stack: Stack,
    sql: Sql,
    host: Host,
    env_file: EnvFile,
    console: AdminConsole,
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    before = int(env_file.get("POSTGRES_MAX_CONNECTIONS"))
    usual = running_settings(stack, console)
    pauses = []
    with make_load(threads=CALLERS) as load:
        wait_for_traffic(load)
        for limit in (before + 7, before):
            env_file.set(POSTGRES_MAX_CONNECTIONS=limit)
            code, output = host.run(SCRIPT)
            assert code == 0, output
            assert sql.value("SHOW max_connections") == str(limit)
            pauses.append(seconds_paused(output))
            hold(3)
    assert max(pauses) < PAUSE_MAX_SECONDS
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql)
    assert running_settings(stack, console) == usual


def test_an_open_transaction_is_named_and_nothing_is_paused(
    stack: Stack, sql: Sql, host: Host, console: AdminConsole, make_load: MakeLoad
) -> None:
    started = sql.value("SELECT pg_postmaster_start_time()")
    with make_load() as load, open_transaction(stack, sql) as pid:
        wait_for_traffic(load)
        code, output = host.run(SCRIPT, "--compiled")
        assert not any(is_paused(stack, console))
    assert code == REFUSED, output
    assert f"process {pid} (postgres)" in output
    assert "held open" in output
    assert sql.value("SELECT pg_postmaster_start_time()") == started
    check_no_failure(load)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "freeze"])
def test_an_operator_that_ends_while_paused_leaves_no_pause(
    stack: Stack,
    sql: Sql,
    host: Host,
    console: AdminConsole,
    make_load: MakeLoad,
    deadline_seconds: float,
    end: str,
) -> None:
    usual = running_settings(stack, console)
    with make_load() as load:
        wait_for_traffic(load)
        script = host.start(SCRIPT, "--compiled")
        wait_until_paused(script)
        paused_at = time.monotonic()
        operator = operator_container(stack)
        if end == "freeze":
            operator.pause()
        else:
            operator.kill(end)
        poll(
            lambda: not any(is_paused(stack, console)),
            seconds=DEAD_MAN_SECONDS + SLACK_SECONDS,
            what="every PgBouncer serves again",
        )
        resumed_after = time.monotonic() - paused_at
        if end == "freeze":
            poll(
                lambda: running_settings(stack, console) == usual,
                seconds=20,
                what="settings are back",
            )
            operator.kill("SIGKILL")
        script.communicate(timeout=60)
        hold(5)
    assert script.returncode != 0
    assert resumed_after < DEAD_MAN_SECONDS + SLACK_SECONDS
    poll(
        lambda: running_settings(stack, console) == usual, seconds=20, what="the settings are back"
    )
    check_answers(load.samples)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql)
