"""Tiers that are started by hand, in an order in which each misses what it needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.oracle import check_nothing_left
from tests.fix_api import Api, assessment_body
from tests.fix_sql import Sql
from tests.fix_stack import TIERS, Stack

HEALTHY_SECONDS = 60
STOP_SECONDS = 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [tuple(reversed(TIERS)), ("api", "postgres", "worker", "pgbouncer")], ids=" ".join
)
def test_every_tier_becomes_healthy_whatever_was_started_before_it(
    stack: Stack, api: Api, sql: Sql, order: tuple[str, ...]
) -> None:
    assert sorted(order) == sorted(TIERS)
    tiers = {tier: stack.containers(tier) for tier in order}
    every = [one for containers in tiers.values() for one in containers]
    with ThreadPoolExecutor(len(every)) as threads:
        list(threads.map(lambda one: one.stop(timeout=STOP_SECONDS), every))
    for containers in tiers.values():
        for one in containers:
            one.start()
    stack.wait_healthy(seconds=HEALTHY_SECONDS)
    assert api.run(assessment_body())["status"] == "succeeded"
    check_nothing_left(sql)
