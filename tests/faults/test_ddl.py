"""A column changes its type, again and again, under the statements that read it."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.oracle import check_no_failure, check_nothing_left, check_writes
from tests.fix_api import Api
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_ops import Commands
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack, metrics_of, run_in

# Read by every status request, and by every claim of a worker.
COLUMNS = {"risk.assessments": "total_tasks", "risk.assessment_sites": "cell_id"}
CHANGES, AT_ONCE = 100, 10


def change_types(stack: Stack, times: int) -> None:
    """Change the types of the columns and back, so often in all, each a transaction."""
    there_and_back = [
        f"--command=ALTER TABLE {table} ALTER {column} TYPE {name}"
        for table, column in COLUMNS.items()
        for name in ("bigint", "integer")
    ]
    commands = there_and_back * (times // len(COLUMNS))
    psql = ["psql", "--quiet", "--set=ON_ERROR_STOP=1", "--username=postgres", "--dbname=risk"]
    code, text = run_in(stack.container("postgres"), [*psql, *commands])
    assert code == 0, text


def stale_plans(stack: Stack) -> float:
    """Return how often api and workers have repeated something because of a stale plan."""
    return sum(
        sample.value
        for service in ("api", "worker")
        for container in stack.containers(service)
        for family in text_string_to_metric_families(metrics_of(container))
        for sample in family.samples
        if sample.name == "dbpool_retries_total" and sample.labels["failure"] == "stale_plan"
    )


@pytest.mark.slow
def test_a_hundred_changed_types_reach_no_caller_and_fail_no_task(
    stack: Stack, sql: Sql, ops: Commands, make_load: MakeLoad
) -> None:
    before = stale_plans(stack)
    with make_load() as load:
        wait_for_traffic(load)
        for _ in range(CHANGES // AT_ONCE):
            change_types(stack, AT_ONCE)
            hold(0.5)
        done = ops.run("pgbouncer", "reconnect", "--if-changed")
        assert done.exit_code == 0, done.text
        met = stale_plans(stack)
        hold(5)
        assert stale_plans(stack) == met, "stale plans after the server connections are new"
    assert met > before, "no plan became stale"
    check_no_failure(load)
    check_writes(load, sql)
    check_nothing_left(sql)
    failed = (
        "SELECT count(*) FROM risk.tasks JOIN risk.assessments USING (assessment_id)"
        f" WHERE idempotency_key LIKE '{load.run_prefix}-%' AND state = 'failed'"
    )
    assert sql.value(failed) == "0"


def servers(stack: Stack, console: AdminConsole) -> set[str]:
    """Return the backends that serve requests, by process id."""
    return {
        row["remote_pid"]
        for replica in range(len(stack.containers("pgbouncer")))
        for row in console.show("SERVERS", replica=replica)
        if row["database"] == "risk"
    }


def test_after_ddl_psql_has_the_server_connections_replaced(
    stack: Stack, api: Api, console: AdminConsole
) -> None:
    assert api.http.get("/health/ready").status_code == 200
    before = servers(stack, console)
    ours, theirs = pty.openpty()
    os.write(ours, b"ALTER TABLE risk.assessments ALTER total_tasks TYPE integer;\n\\q\n")
    ended = subprocess.run(
        ["make", "psql"], cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs, timeout=120
    )
    said = os.read(ours, 65536).decode(errors="replace")
    for end in (ours, theirs):
        os.close(end)
    assert ended.returncode == 0, said
    assert "every PgBouncer has new server connections" in said
    assert before
    assert not before & servers(stack, console)
