"""Operations asked for JSON: one document on standard output, true to what was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fix_ops import Commands, EnvDir
from tests.fix_secrets import Given
from tests.fix_sql import AdminConsole
from tests.fix_stack import Stack

PAUSE_MAX_SECONDS = 10.0
BAD_INPUT, REFUSED = 2, 3
# Nobody may build with it.
STRAW = (
    "cell_id,structure,storeys,built_year,has_basement,"
    "elevation_m,river_distance_m,coast_distance_m\n1,straw,3,1990,true,10,10,10\n"
)


def names(stack: Stack, service: str) -> set[str]:
    """Return the names of a service's containers."""
    return {str(one.name) for one in stack.containers(service)}


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_rolling_restart_reports_every_replica(stack: Stack, ops: Commands, env: EnvDir) -> None:
    replicas = names(stack, "pgbouncer")
    done = ops.script("restart-pgbouncer", "--json", env=env)
    assert done.exit_code == done.document["exit_code"] == 0, done.text
    (restart,) = done.document["commands"]
    restarted = [one for one in restart["document"]["processes"] if one["done"] == "restarted"]
    assert {one["process"] for one in restarted} == replicas
    assert all(one["seconds"] > 0 for one in restarted)
    assert "host:" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_restart_of_postgres_reports_how_long_clients_waited(ops: Commands, env: EnvDir) -> None:
    done = ops.script("restart-postgres", "--json", env=env)
    assert done.exit_code == done.document["exit_code"] == 0, done.text
    commands = {one["command"]: one["document"] for one in done.document["commands"]}
    assert set(commands) == {"apply --restart", "restart postgres"}
    assert 0 < commands["restart postgres"]["paused_seconds"] < PAUSE_MAX_SECONDS


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_restart_of_the_app_reports_every_process(
    stack: Stack, ops: Commands, env: EnvDir
) -> None:
    processes = names(stack, "api") | names(stack, "worker")
    done = ops.script("restart-app", "--json", "--compiled", env=env)
    assert done.exit_code == 0, done.text
    (restart,) = done.document["commands"]
    assert {one["process"] for one in restart["document"]["processes"]} == processes


def test_what_is_refused_is_in_the_document(
    ops: Commands, env: EnvDir, console: AdminConsole
) -> None:
    console.command("PAUSE")
    try:
        done = ops.script("restart-pgbouncer", "--json", env=env)
    finally:
        console.command("RESUME")
    assert done.exit_code == done.document["exit_code"] == REFUSED, done.text
    (restart,) = done.document["commands"]
    assert "is paused" in restart["document"]["faults"][0]
    assert restart["document"]["processes"] == []


def test_a_secret_that_cannot_be_used_is_named_in_the_document(given: Given) -> None:
    (given.path / "risk_api.password").write_text("short", encoding="ascii")
    done = given.rotate("passwords", "--json")
    assert done.exit_code == done.document["exit_code"] == BAD_INPUT, done.text
    assert "risk_api.password: has 5 characters" in done.document["faults"][0]
    assert done.document["secrets"] == []


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_rotation_names_the_servers_that_show_new_certificates(
    stack: Stack, ops: Commands
) -> None:
    done = ops.run("rotate", "certificates", "--json")
    assert done.exit_code == 0, done.text
    shown = {one["process"] for one in done.document["processes"]}
    for service in ("postgres", "pgbouncer", "api", "worker"):
        assert names(stack, service) <= shown
    assert "postgres.crt" in done.document["secrets"]


def test_a_bad_row_is_told_field_by_field(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(STRAW, encoding="ascii")
    # The service has a user of its own.
    tmp_path.chmod(0o755)
    mounted = ("run", "--rm", "--no-deps", "--no-TTY", "--volume", f"{tmp_path}:/data:ro")
    command = ("load-reference", "buildings", "/data/rows.csv", "--json")
    done = stack.compose(*mounted, "migrate", *command)
    assert done.returncode == BAD_INPUT, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == BAD_INPUT
    assert document["rows_loaded"] == 0
    assert document["fault_count"] == len(document["faults"]) > 0
    assert {one["line"] for one in document["bad_values"]} == {2}
