"""A stack with nothing to do does next to nothing, and yet begins a submission at once."""

from __future__ import annotations

import time

from tests.fix_api import Api, assessment_body
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import during, poll

WINDOW_SECONDS = 20.0
TRANSACTIONS_PER_SECOND_MAX = 5.0
# Of jitter, half of the interval is left: between two polls of a worker are 30 s at least.
INTERVAL_MS = 60_000
WITHIN_SECONDS = 25.0
# Each of two workers polls once in that time, or twice with what is left of the old interval.
SUBMISSIONS = 8

UNFINISHED = "SELECT count(*) FROM risk.assessments WHERE finished_at IS NULL"
TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"


def transactions_per_second(sql: Sql) -> float:
    """Count over a window, the queries of health checks and of this test included."""
    before, started = int(sql.value(TRANSACTIONS)), time.monotonic()
    for _ in during(WINDOW_SECONDS):
        time.sleep(1.0)
    return (int(sql.value(TRANSACTIONS)) - before) / (time.monotonic() - started)


def test_an_idle_stack_makes_few_transactions(sql: Sql) -> None:
    poll(lambda: sql.value(UNFINISHED) == "0", seconds=120, what="the workers are done")
    # The first windows may see the pauses grow.
    poll(
        lambda: transactions_per_second(sql) <= TRANSACTIONS_PER_SECOND_MAX,
        seconds=60,
        what=f"at most {TRANSACTIONS_PER_SECOND_MAX:g} transactions a second",
    )


def test_a_submission_does_not_wait_for_a_poll(
    ops: Commands, env: EnvDir, api: Api, sql: Sql, applied_again: None
) -> None:
    poll(lambda: sql.value(UNFINISHED) == "0", seconds=120, what="the workers are done")
    env.set(WORKER_POLL_INTERVAL_MS=INTERVAL_MS, WORKER_POLL_INTERVAL_MAX_MS=INTERVAL_MS)
    done = ops.apply(env)
    assert done.exit_code == 0, done.text
    deadline = time.monotonic() + WITHIN_SECONDS
    body = assessment_body(scenarios=["SSP126"], years={"from": 2030, "to": 2030})
    for _ in range(SUBMISSIONS):
        final = api.run(body, seconds=deadline - time.monotonic())
        assert final["status"] == "succeeded"
