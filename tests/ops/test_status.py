"""The whole path on one screen: every process, what does not answer, and the bottleneck."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fix_faults import MakeLoad, frozen, wait_for_traffic
from tests.fix_ops import Commands
from tests.fix_stack import Stack


def status(ops: Commands) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the document of one look."""
    done = ops.run("status", "--json")
    assert done.stdout.startswith("{"), done.stderr
    return done.exit_code, done.document


def names(parts: list[dict[str, Any]]) -> set[str]:
    """Return the names of the processes."""
    return {one["name"] for one in parts}


def running(stack: Stack, *services: str) -> set[str]:
    """Return the names of the containers of the services."""
    return {str(one.name) for service in services for one in stack.containers(service)}


def test_every_process_is_shown_with_its_numbers_under_load(
    stack: Stack, ops: Commands, settings: dict[str, str], make_load: MakeLoad
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        code, document = status(ops)
    assert code == 0
    assert document["unreachable"] == []
    assert names(document["app"]) == running(stack, "api", "worker")
    assert names(document["poolers"]) == running(stack, "pgbouncer")
    pools = [pool for pooler in document["poolers"] for pool in pooler["pools"]]
    interactive = [pool for pool in pools if pool["database"] == "risk"]
    assert sum(pool["queries_per_second"] for pool in interactive) > 0
    assert sum(pool["transaction_ms"] for pool in interactive) > 0
    assert {pool["pool_size"] for pool in interactive} == {
        int(settings["PGBOUNCER_INTERACTIVE_POOL_SIZE"])
    }
    assert document["server"]["max_connections"] == int(settings["POSTGRES_MAX_CONNECTIONS"])
    assert document["server"]["connections"] > 0
    assert document["bottleneck"]["line"]


@pytest.mark.slow
def test_a_frozen_process_is_named_and_the_rest_still_shown(stack: Stack, ops: Commands) -> None:
    victim = stack.containers("worker")[0]
    with frozen([victim]):
        code, document = status(ops)
    assert code == 1
    (silent,) = document["unreachable"]
    assert str(victim.name) in silent
    assert document["bottleneck"]["where"] == "unreachable"
    assert names(document["poolers"]) == running(stack, "pgbouncer")
    assert document["server"]["connections"] > 0
    answering = {one["name"] for one in document["app"] if not one["error"]}
    assert answering == running(stack, "api", "worker") - {str(victim.name)}
    stack.wait_healthy()


def test_the_screen_has_every_tier_and_the_verdict_last(ops: Commands) -> None:
    done = ops.run("status")
    output = done.stdout
    assert done.exit_code == 0, output
    for title in ("App pools", "PgBouncer", "PostgreSQL:", "Requests: ", "Tasks: "):
        assert title in output
    assert output.strip().splitlines()[-1].startswith("Bottleneck: ")


def test_facts_that_no_host_prints_are_named_and_the_screen_is_still_there(stack: Stack) -> None:
    facts = ["--env", "SLUICE_CONTAINERS=nonsense"]
    done = stack.compose("run", "--rm", "--no-deps", "--no-TTY", *facts, "ops", "status")
    assert done.returncode == 0, done.stderr
    assert "SLUICE_CONTAINERS is not what the host prints" in done.stderr
    assert "Containers and disk: not known here" in done.stdout
