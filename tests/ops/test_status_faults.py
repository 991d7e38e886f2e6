"""Real faults: status names the cause, the runbook has a row for it, and its commands work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fix_api import SEOUL, Api, assessment_body
from tests.fix_faults import MakeLoad, frozen, killed, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack, poll, run_in
from tests.ops.path_faults import (
    CALLERS,
    SMALL_POOL,
    WRITERS,
    applied,
    checkpoint_storm,
    lock_held,
    processors_taken,
    session,
    transactions_left_idle,
)

RUNBOOK = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a target as an operator does."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def document() -> dict[str, Any]:
    """Return what `make status JSON=yes` prints."""
    done = make("status", "JSON=yes")
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def judged(
    row: str, where: str, setting: str = "", *, agreeing: int = 1, differing: int = 0
) -> dict[str, Any]:
    """Return the verdict once so many looks agree with a row of the runbook.

    Before so many differ; as many, if not stated. In the row NAME stands for a name and N for a
    number. A queue needs two looks: the machine under the tests is now and then somebody else's.
    """
    assert f"\n| `{row}` |" in RUNBOOK
    line = re.escape(row).replace("NAME", r"\S+").replace("N", r"\d+")
    right: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    while len(right) < agreeing and len(wrong) < (differing or agreeing):
        found = document()["bottleneck"]
        agrees = found["where"] == where and found["setting"] == setting
        (right if agrees and re.search(line, found["line"]) else wrong).append(found)
    assert len(right) == agreeing, wrong
    return right[-1]


@pytest.mark.slow
def test_an_api_pool_that_is_too_small_is_named_also_beside_a_busy_batch_pool(
    ops: Commands, env: EnvDir, api: Api, make_load: MakeLoad
) -> None:
    row, setting = "all N connections of its pool are lent", "API_POOL_MAX_SIZE"
    sizes = {"API_POOL_MIN_SIZE": 1, setting: 1}
    with applied(ops, env, **sizes), make_load(**CALLERS) as load:
        wait_for_traffic(load, 200)
        assert judged(row, "app pool", setting, agreeing=2)["command"] == "make apply"
        for number in range(6):
            sites = [{**SEOUL, "site_id": f"{number}-{site}"} for site in range(10)]
            assert api.submit(assessment_body(*sites)).status_code == 202
        assert document()["server"]["tasks_queued"] > 0
        # The batch takes processors, too.
        judged(row, "app pool", setting, agreeing=2, differing=5)
        minute = document()["last_minute"]
    assert minute["requests"] > 100
    assert minute["p95_seconds"] > 0


@pytest.mark.slow
def test_a_client_that_fills_a_pooler_s_memory_is_named_and_the_commands_help(
    stack: Stack, probe: Probe, console: AdminConsole, settings: dict[str, str]
) -> None:
    setting = "PGBOUNCER_MEMORY_MB"
    network = stack.container("pgbouncer").attrs["NetworkSettings"]["Networks"]
    address = network[f"{stack.project}_pool"]["IPAddress"]
    # Of 98 kB each; a tenth of the limit is PgBouncer's own.
    count = int(settings[setting]) * 1024 * 82 // 100 // 98

    def prepared() -> int:
        return max(int(row["prepared_statements"]) for row in console.show("CLIENTS"))

    with ThreadPoolExecutor(1) as threads:
        client = threads.submit(probe, "prepare_endlessly", address, str(count))
        poll(lambda: prepared() == count, seconds=60, what="the client has prepared them")
        row = "PgBouncer NAME holds N MB of the N MB of its container"
        verdict = judged(row, "pgbouncer memory", setting)
        assert f"{count} prepared statements" in verdict["line"]
        for command in verdict["command"].splitlines():
            subprocess.run(shlex.split(command), cwd=REPOSITORY, timeout=120, check=True)
        assert "admin forced disconnect" in client.result()["error"]
    assert document()["bottleneck"]["where"] != "pgbouncer memory"


def test_a_pgbouncer_pool_that_is_too_small_is_named(
    ops: Commands, env: EnvDir, make_load: MakeLoad
) -> None:
    setting = "PGBOUNCER_INTERACTIVE_POOL_SIZE"
    with applied(ops, env, **SMALL_POOL), make_load(**CALLERS) as load:
        wait_for_traffic(load, 200)
        row = "all N server connections of risk are taken"
        verdict = judged(row, "pgbouncer pool", setting, agreeing=2, differing=3)
    assert verdict["command"] == "make apply"


def test_processors_that_are_short_are_named(stack: Stack) -> None:
    row = "PostgreSQL runs N queries on N processor(s)"
    with processors_taken(stack):
        verdict = judged(row, "postgres cpu", "POSTGRES_CPUS", agreeing=2)
    assert verdict["command"] == "make apply RESTART=yes"


def test_clients_that_do_nothing_in_their_transactions_are_named(
    stack: Stack, sql: Sql, probe: Probe, make_load: MakeLoad
) -> None:
    row, setting = (
        "N of them belong to transactions in which the client does nothing",
        "API_IDLE_IN_TRANSACTION_TIMEOUT_MS",
    )
    with transactions_left_idle(stack, probe, sql), make_load() as load:
        wait_for_traffic(load, 1)
        verdict = judged(row, "app transactions", setting, agreeing=2)
    assert verdict["command"].startswith("make psql\nSELECT pg_terminate_backend(")


def test_a_disk_that_a_storm_of_checkpoints_slows_is_named(
    stack: Stack, make_load: MakeLoad
) -> None:
    row, setting = "PostgreSQL: N session(s) wait for the disk", "POSTGRES_MAX_WAL_MB"
    with checkpoint_storm(stack), make_load(**WRITERS) as load:
        wait_for_traffic(load)
        # It comes and goes: between two checkpoints nobody waits.
        verdict = judged(row, "postgres disk", setting, agreeing=2, differing=5)
    assert verdict["command"] == "make apply"


@pytest.mark.slow
def test_a_transaction_that_is_open_for_long_is_named(stack: Stack, sql: Sql) -> None:
    held = "BEGIN; SELECT txid_current(); SELECT pg_sleep(240)"
    old = (
        f"SELECT pid FROM pg_stat_activity WHERE query = '{held}' "
        "AND xact_start < now() - interval '60 s'"
    )
    with session(stack, held):
        (holder,) = poll(lambda: sql.rows(old), seconds=90, what="the transaction is old")
        verdict = judged("has had a transaction open for N s", "postgres transaction", agreeing=2)
    assert verdict["command"] == f"make psql\nSELECT pg_terminate_backend({holder['pid']});"


def test_the_line_that_status_prints_ends_the_session_that_holds_a_lock(
    stack: Stack, sql: Sql, make_load: MakeLoad
) -> None:
    with lock_held(stack, sql) as holder, make_load() as load:
        wait_for_traffic(load, 0)
        verdict = judged("N session(s) wait for a lock", "locks", "API_LOCK_TIMEOUT_MS")
        enter, end = verdict["command"].splitlines()
        assert (enter, end) == ("make psql", f"SELECT pg_terminate_backend({holder});")
        assert f"process {holder} (postgres, active" in verdict["line"]
        sql.rows(end)
        left = f"SELECT pid FROM pg_stat_activity WHERE pid = {holder}"
        poll(lambda: not sql.rows(left), seconds=30, what="the holder has ended")
    stack.wait_healthy()


def test_the_commands_that_status_prints_end_a_pause(stack: Stack, console: AdminConsole) -> None:
    console.on_all("PAUSE")
    verdict = judged("NAME is paused: every query waits for RESUME", "paused")
    commands = verdict["command"].splitlines()
    assert len(commands) == len(stack.containers("pgbouncer"))
    for command in commands:
        subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=60)
    stack.wait_healthy(seconds=120)
    assert document()["bottleneck"]["where"] != "paused"


def test_a_stopped_server_is_named_with_its_exit_code_and_the_next_command(stack: Stack) -> None:
    victim = stack.container("postgres")
    victim.stop()
    try:
        verdict = judged("container NAME is exited", "postgres exited")
    finally:
        victim.start()
    assert f"{victim.name} is exited since 20" in verdict["line"]
    assert "(exit code 0, 0 restart(s))" in verdict["line"]
    stack.wait_healthy(seconds=120)


@pytest.mark.parametrize("service", ["worker", "pgbouncer"])
def test_a_killed_container_is_named_with_its_exit_code_and_the_next_command(
    stack: Stack, service: str
) -> None:
    victim = stack.container(service)
    with killed([victim]):
        verdict = judged("container NAME is exited", f"{service} exited")
    assert f"container {victim.name} is exited since 20" in verdict["line"]
    assert "killed 137" in verdict["line"]
    assert verdict["command"].endswith(f"docker start {victim.name}")
    stack.wait_healthy(seconds=120)


@pytest.mark.slow
def test_a_paused_server_is_named_as_paused(stack: Stack) -> None:
    victim = stack.container("postgres")
    with frozen([victim]):
        verdict = judged("container NAME is paused", "postgres paused")
    assert verdict["command"] == f"docker unpause {victim.name}"
    stack.wait_healthy(seconds=120)


def test_the_disk_and_the_certificates_are_in_the_document(
    stack: Stack, settings: dict[str, str]
) -> None:
    found = document()
    disk = found["host"]["disk"]
    assert 0 < disk["free"] < disk["size"]
    assert disk["reserve"] > 2 * int(settings["POSTGRES_MAX_WAL_MB"]) << 20
    assert found["certificates"][0]["days"] > 0


@pytest.fixture
def every_slot_taken(stack: Stack, settings: dict[str, str]) -> Iterator[None]:
    """Take what is left of max_connections, the superuser's reserve too."""
    postgres = stack.container("postgres")
    sessions = int(settings["POSTGRES_MAX_CONNECTIONS"])
    psql = "psql --dbname risk --command 'SELECT pg_sleep(90)'"
    # Again, for a slot that somebody else had and has left.
    again = f"until [ -e /tmp/slots-over ] || {psql}; do sleep 1; done"
    script = f"rm -f /tmp/slots-over; for i in $(seq {sessions}); do ({again}) & done; wait"
    postgres.exec_run(["sh", "-c", script], detach=True)
    yield
    assert run_in(postgres, ["touch", "/tmp/slots-over"])[0] == 0  # noqa: S108  # its container's
    # Through a free slot where there is one, else by what `make psql` lists.
    ending = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(90)'"
    )

    def all_ended() -> bool:
        for pid in re.findall(r"^(\d+) postgres risk \[local\]", make("psql").stdout, re.MULTILINE):
            postgres.exec_run(["kill", "-TERM", pid])
        code, printed = run_in(postgres, ["psql", "--tuples-only", "--command", ending])
        return code == 0 and not printed.strip()

    poll(all_ended, seconds=60, what="every session that the test opened has ended")
    stack.wait_healthy(seconds=120)


@pytest.mark.usefixtures("every_slot_taken")
def test_with_every_slot_taken_psql_lists_sessions_and_status_shows_the_other_tiers(
    stack: Stack,
) -> None:
    def refused() -> subprocess.CompletedProcess[str] | None:
        done = make("psql")
        return done if "Sessions, by process id" in done.stdout else None

    done = poll(refused, seconds=60, what="every slot is taken")
    assert "\n| `PostgreSQL takes no more sessions` |" in RUNBOOK
    found = document()
    assert found["bottleneck"]["line"].startswith("PostgreSQL takes no more sessions")
    assert found["bottleneck"]["where"] == "postgres sessions"
    assert found["bottleneck"]["command"] == "make psql"
    assert all(not one["error"] for one in found["app"])
    assert all(not one["error"] for one in found["poolers"])

    assert done
    assert "docker compose exec postgres kill -TERM PID" in done.stdout
    held = re.findall(r"^(\d+) postgres risk \[local\]", done.stdout, re.MULTILINE)
    assert held
    ended = stack.compose("exec", "--no-TTY", "postgres", "kill", "-TERM", held[0])
    assert ended.returncode == 0, ended.stderr
    poll(
        lambda: f"{held[0]} postgres" not in make("psql").stdout,
        seconds=30,
        what="the session has ended",
    )
