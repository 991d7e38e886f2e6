"""Hold a lease for too long, lose it to another claim, and try to write all the same.

    python -m tests.stack.probes.fence ATTEMPTS_MAX

Needs one submitted assessment of one task and no worker beside it. Prints what each step
came to. The last lease is left to run out on the last attempt.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import psycopg

from app.assessments.batch import Batch, TaskResults, read_site, read_tasks
from app.assessments.tasks import (
    ClaimRules,
    FenceRefusedError,
    claim,
    complete,
    fail_lost,
    find_claim,
    find_lost,
    finish,
    release,
)
from app.pool import DatabasePool, Deadline
from app.risk import SiteModel
from tests.stack.probes.settings import load

LEASE_SECONDS = 0.5
# Below the worker's lock_timeout.
COMMIT_SECONDS = 0.5
ATTEMPTS_MAX = int(sys.argv[1])
RULES = ClaimRules(batch_tasks=40, lease_seconds=LEASE_SECONDS, attempts_max=ATTEMPTS_MAX)

T = TypeVar("T")
connection_settings, pool_settings = load()
pool = DatabasePool(connection_settings, pool_settings, name="fence")


def run(work: Callable[[psycopg.Connection[Any]], T]) -> T:
    """Run one unit of work."""
    return pool.run(work, deadline=Deadline.after(10), name="fence")


def claimed() -> Batch | None:
    """Claim whatever can be claimed, for a short lease."""
    return run(lambda connection: claim(connection, RULES, str(uuid.uuid4())))


def held() -> Batch:
    """Claim, where there must be something to claim."""
    batch = claimed()
    assert batch is not None, "nothing to claim"
    return batch


def committing() -> tuple[Batch | None, Batch | None]:
    """Claim with a COMMIT that takes its time; return the claim and what a lookup has found."""
    token = str(uuid.uuid4())
    leased = threading.Event()

    def claim_slowly(connection: psycopg.Connection[Any]) -> Batch | None:
        batch = claim(connection, RULES, token)
        leased.set()
        time.sleep(COMMIT_SECONDS)
        return batch

    with ThreadPoolExecutor(1) as threads:
        claiming = threads.submit(run, claim_slowly)
        leased.wait(10)
        found = run(lambda connection: find_claim(connection, token))
        return claiming.result(), found


def assessed(batch: Batch) -> list[TaskResults]:
    """Return the results of a batch."""
    site = run(lambda connection: read_site(connection, batch.cell_id))
    inputs = run(lambda connection: read_tasks(connection, batch.cell_id, batch.tasks)).tasks
    model = SiteModel(site)
    return [
        TaskResults(task, model.assess(inputs[task.scenario, task.year], batch.terms))
        for task in batch.tasks
    ]


def refused(batch: Batch, results: list[TaskResults]) -> bool:
    """Return True if a completion is refused by the fence."""
    try:
        run(lambda connection: complete(connection, batch, results))
    except FenceRefusedError:
        return True
    return False


def main() -> None:
    """Walk through the life of a lease."""
    pool.open(deadline=Deadline.after(30))
    report: dict[str, Any] = {}
    first = held()
    report["leased_twice_at_once"] = claimed() is not None
    results = assessed(first)
    time.sleep(LEASE_SECONDS * 2)
    second = held()
    report["attempts"] = [batch.tasks[0].attempt for batch in (first, second)]
    report["late_completion_refused"] = refused(first, results)
    report["late_release_changed"] = run(lambda connection: release(connection, first))
    report["released"] = run(lambda connection: release(connection, second))
    report["released_completion_refused"] = refused(second, results)
    third, found = committing()
    assert third is not None, "nothing to claim"
    report["found_before_its_commit"] = found == third
    run(lambda connection: release(connection, third))
    for _ in range(ATTEMPTS_MAX - 1):
        last = held()
        time.sleep(LEASE_SECONDS * 2)
    report["last_attempt"] = last.tasks[0].attempt
    report["claimable_after_the_last"] = claimed() is not None
    lost = run(lambda c: fail_lost(c, ATTEMPTS_MAX))
    report["lost"] = [row[-1] for row in lost]
    other = [(*row[:-1], "another error") for row in lost]
    report["lost_found"] = [run(partial(find_lost, lost=rows)) == rows for rows in (lost, other)]
    report["ended"] = [status for _, status in run(lambda c: finish(c, first.assessment_id))]
    pool.close(5)
    sys.stdout.write(json.dumps(report) + "\n")


main()
