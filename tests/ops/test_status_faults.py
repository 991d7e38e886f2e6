"""Real faults: status names the container, what became of it and the next command."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fix_faults import frozen, killed
from tests.fix_stack import REPOSITORY, Stack, poll, run_in


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


@pytest.mark.parametrize("service", ["worker", "pgbouncer", "postgres"])
def test_a_killed_container_is_named_with_its_exit_code_and_the_next_command(
    stack: Stack, service: str
) -> None:
    victim = stack.container(service)
    with killed([victim]):
        found = document()
    verdict = found["bottleneck"]
    assert verdict["where"] == f"{service} exited"
    assert f"container {victim.name} is exited since 20" in verdict["line"]
    assert "killed 137" in verdict["line"]
    assert verdict["command"].endswith(f"docker start {victim.name}")
    stack.wait_healthy(seconds=120)


def test_a_paused_server_is_named_as_paused(stack: Stack) -> None:
    victim = stack.container("postgres")
    with frozen([victim]):
        found = document()
    assert found["bottleneck"]["where"] == "postgres paused"
    assert found["bottleneck"]["command"] == f"docker unpause {victim.name}"
    stack.wait_healthy(seconds=120)


def test_the_disk_and_the_certificates_are_in_the_document(
    stack: Stack, knobs: dict[str, str]
) -> None:
    found = document()
    disk = found["host"]["disk"]
    assert 0 < disk["free"] < disk["size"]
    assert disk["reserve"] > 2 * int(knobs["POSTGRES_MAX_WAL_MB"]) << 20
    assert found["certificates"][0]["days"] > 0


@pytest.fixture
def every_slot_taken(stack: Stack, knobs: dict[str, str]) -> Iterator[None]:
    """Take what is left of max_connections, the superuser's reserve too."""
    postgres = stack.container("postgres")
    sessions = int(knobs["POSTGRES_MAX_CONNECTIONS"])
    psql = "psql --dbname risk --command 'SELECT pg_sleep(90)'"
    script = f"for i in $(seq {sessions}); do {psql} & done; wait"
    postgres.exec_run(["sh", "-c", script], detach=True)
    yield
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
    found = document()
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
