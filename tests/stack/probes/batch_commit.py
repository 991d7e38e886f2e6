"""Cut connections between COMMIT and its answer while the worker's own code stores batches.

    python -m tests.stack.probes.batch_commit YEAR

Needs two submitted assessments and no worker beside it. Tasks of YEAR raise and have no
attempt left; the others give results. The first batch loses the answer to its COMMIT, the
second the COMMIT itself, the end of both assessments an answer again. Prints what the worker
and its pool have counted, as JSON.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

from prometheus_client import CollectorRegistry

from app.assessments.tasks import ClaimRules, claim, fail, finish
from app.metrics import WorkMetrics
from app.pool import DatabasePool, Deadline
from app.risk import SiteModel
from app.settings import Live, WorkerSettings, load_settings, settings_path
from app.worker.batch import BatchRunner
from tests.stack.probes.proxy import Loss, Proxy
from tests.stack.probes.settings import load

YEAR = int(sys.argv[1])
RULES = ClaimRules(batch_tasks=40, lease_seconds=60, attempts_max=1)
COUNTERS = {
    "done": ("sluice_tasks_done_total", {}),
    "failed": ("sluice_tasks_failed_total", {}),
    "retried": ("sluice_tasks_retried_total", {}),
    **{
        outcome: (
            "dbpool_commits_in_doubt_total",
            {"pool": "batch-commit", "outcome": outcome},
        )
        for outcome in ("found", "repeated", "unknown")
    },
}


def worker_settings() -> WorkerSettings:
    """Return the deployed worker's settings, with one attempt a task."""
    document = load_settings(settings_path("worker"), WorkerSettings).model_dump()
    document["worker"]["attempts_max"] = RULES.attempts_max
    return WorkerSettings.model_validate(document)


def raising(assess: Callable[..., Any]) -> Callable[..., Any]:
    """Return the assessment of a task, but for those that are to raise."""

    def assess_or_raise(model: SiteModel, inputs: Any, terms: Any) -> Any:
        if inputs.year == YEAR:
            raise ValueError("made to fail")
        return assess(model, inputs, terms)

    return assess_or_raise


def losing(call: Callable[..., Any], proxy: Proxy, loss: Loss) -> Callable[..., Any]:
    """Return the call, after whose first end the next message is lost."""
    losses = [loss]

    def call_and_lose(*arguments: Any, **options: Any) -> Any:
        result = call(*arguments, **options)
        if losses:
            proxy.loss = losses.pop()
        return result

    return call_and_lose


def main() -> None:
    """Store a batch for each loss, then end the assessments."""
    connection, pool_settings = load()
    proxy = Proxy((connection.host, connection.port))
    # The certificate does not name the proxy; the rest of the path is as deployed.
    through = replace(connection, host="127.0.0.1", port=proxy.port, sslmode="require")
    registry = CollectorRegistry()
    pool = DatabasePool(through, pool_settings, name="batch-commit", registry=registry)
    pool.open(deadline=Deadline.after(30))
    runner = BatchRunner(pool, Live(worker_settings()), WorkMetrics(registry))
    with mock.patch.object(SiteModel, "assess", raising(SiteModel.assess)):
        for loss in (Loss.REPLY, Loss.REQUEST):
            batch = pool.run(
                lambda c: claim(c, RULES, str(uuid.uuid4())),
                deadline=Deadline.after(10),
                name="claim",
            )
            assert batch is not None, "nothing to claim"
            with mock.patch("app.worker.batch.fail", losing(fail, proxy, loss)):
                runner.process(batch)
    pool.run(
        losing(lambda c: finish(c, None), proxy, Loss.REPLY),
        deadline=Deadline.after(10),
        name="finish",
        idempotent=True,
    )
    counts = {name: registry.get_sample_value(*counter) for name, counter in COUNTERS.items()}
    pool.close(5)
    proxy.close()
    sys.stdout.write(json.dumps(counts) + "\n")


main()
