"""The sentence under real faults: right in nearly every look, as long as the fault lasts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.fix_faults import MakeLoad, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_probe import Probe
from tests.fix_sql import Sql
from tests.fix_stack import Stack
from tests.ops.path_faults import (
    CALLERS,
    SMALL_POOL,
    WRITERS,
    applied,
    checkpoint_storm,
    lock_held,
    processors_taken,
    transactions_left_idle,
)

# Of so many looks in a row: now and then the machine is somebody else's for some of them.
LOOKS, RIGHT = 12, 11
LOOKS_MAX = 2 * LOOKS
# These come and go: between two checkpoints nobody waits for the disk, and a transaction that does
# nothing is ended by its timeout before the next one begins.
RIGHT_OF = {"postgres disk": 9, "app transactions": 10}
FAULTS = {
    "app pool": "API_POOL_MAX_SIZE",
    "pgbouncer pool": "PGBOUNCER_INTERACTIVE_POOL_SIZE",
    "postgres cpu": "POSTGRES_CPUS",
    "locks": "API_LOCK_TIMEOUT_MS",
    "postgres disk": "POSTGRES_MAX_WAL_MB",
    "app transactions": "API_IDLE_IN_TRANSACTION_TIMEOUT_MS",
}


def looks(url: str) -> Iterator[dict[str, Any]]:
    """Yield the path again and again as the page gets it."""
    with httpx.stream("GET", f"{url}/events", timeout=30) as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == "path":
                yield json.loads(line.removeprefix("data: "))


@pytest.mark.slow
@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_is_named_in_nearly_every_look(
    where: str,
    stack: Stack,
    ops: Commands,
    env: EnvDir,
    sql: Sql,
    probe: Probe,
    make_load: MakeLoad,
    console_url: str,
    record_property: Callable[[str, Any], None],
) -> None:
    with ExitStack() as fault:

        def load(count: int, **kinds: Any) -> None:
            wait_for_traffic(fault.enter_context(make_load(**kinds)), count)

        if where == "app pool":
            sizes = {"API_POOL_MIN_SIZE": 1, "API_POOL_MAX_SIZE": 1}
            fault.enter_context(applied(ops, env, **sizes))
            load(200, **CALLERS)
        elif where == "pgbouncer pool":
            fault.enter_context(applied(ops, env, **SMALL_POOL))
            load(200, **CALLERS)
        elif where == "postgres cpu":
            fault.enter_context(processors_taken(stack))
        elif where == "locks":
            fault.enter_context(lock_held(stack, sql))
            load(0)
        elif where == "postgres disk":
            fault.enter_context(checkpoint_storm(stack))
            load(50, **WRITERS)
        else:
            fault.enter_context(transactions_left_idle(stack, probe, sql))
            load(1)
        seen = looks(console_url)
        # The first may have begun before the fault was there.
        next(seen), next(seen), next(seen)
        found: list[tuple[str, str]] = []
        verdicts: Counter[tuple[str, str]] = Counter()
        while len(found) < LOOKS_MAX and verdicts[where, FAULTS[where]] < RIGHT_OF.get(
            where, RIGHT
        ):
            verdict = next(seen)["bottleneck"]
            found.append((verdict["where"], verdict["setting"]))
            verdicts = Counter(found[-LOOKS:])
    stack.wait_healthy(seconds=120)
    record_property("looks", str(found))
    assert verdicts[where, FAULTS[where]] >= RIGHT_OF.get(where, RIGHT), found
