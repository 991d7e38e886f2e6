"""A tier that stands still: TCP goes on, nothing answers, and no timer of a library helps."""

from __future__ import annotations

import time

import pytest

from tests.faults.load import Load
from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_nothing_left,
    check_recovery,
    check_writes,
    quantile,
)
from tests.fix_faults import MakeLoad, frozen, hold, wait_for_traffic
from tests.fix_sql import Sql
from tests.fix_stack import Stack

# Beyond the deadline for as long as there are requests that meet all of it.
BEYOND_SECONDS = 4.0
RECOVERY_SECONDS = 5.0


def health_stays_prompt(load: Load, deadline_seconds: float) -> None:
    """Check that liveness answered throughout, far below what the stuck requests took."""
    health = load.of("health")
    assert health
    assert {one.status for one in health} == {200}
    assert quantile([one.seconds for one in health], 0.99) < deadline_seconds / 10


@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("tier", ["postgres", pytest.param("pgbouncer", marks=pytest.mark.slow)])
def test_a_frozen_tier_is_503_at_the_deadline_and_no_hang(
    stack: Stack, sql: Sql, make_load: MakeLoad, deadline_seconds: float, tier: str
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        with frozen(stack.containers(tier)):
            hold(deadline_seconds + BEYOND_SECONDS)
        thawed = time.monotonic()
        hold(RECOVERY_SECONDS + 3)
    refused = [one for one in load.of() if one.status == 503]
    assert refused, "the fault was not felt"
    assert '"pool"' in refused[0].body
    check_deadlines(load, deadline_seconds)
    check_answers(load.samples)
    check_recovery(load, thawed, RECOVERY_SECONDS)
    health_stays_prompt(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql)
