"""The verdict on a campaign: workloads with histories, what the judges say, and the page's data.

The workloads are an application of their own on the path (workload.py); checkers.py says whether
what they saw can be explained, the oracle what the load's requests left in PostgreSQL.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.chaos import checkers, workload
from tests.chaos.campaign import WORKLOADS_SECONDS_MAX, Event, Record, is_good
from tests.chaos.faults import FAULTS
from tests.faults import oracle
from tests.faults.load import Load, Sample
from tests.fix_clients import Application, printed
from tests.fix_faults import hold
from tests.fix_sql import Sql

NAME = "proof"
CHAOS = Path(__file__).parent
# A pool that has grown within its limits holds more files than at first, but not so many.
FILES_MAX = 50
CUT_SECONDS = 1.5


# The workloads ---------------------------------------------------------------------------------


def join(application: Application) -> None:
    """Have the workloads' application join the path."""
    application.set(POOL_SIZE=4, MAX_CLIENT_CONNECTIONS=60)
    done = application.apply()
    assert done.exit_code == 0, done.text
    application.take_secrets()


def make_tables(sql: Sql) -> None:
    """Make the workloads' tables, empty, whatever there was before."""
    fresh = f"DROP TABLE IF EXISTS {', '.join(workload.NAMES)}; {workload.TABLES}"
    sql.rows(f"SET ROLE {NAME}_owner; {fresh}", database=NAME)


@contextmanager
def workloads(
    application: Application,
    image: str,
    out: Path,
    *,
    seed: int,
    seconds_max: float,
    careless: Collection[str] = (),
) -> Iterator[None]:
    """Run the workloads during the block, and until each client has its last answer.

    Where the block's end does not reach them, they end after `seconds_max`.
    """
    stop = application.secret("stop")
    stop.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    words = ["python", "/app/workload.py", f"--seed={seed}", "--out=/history"]
    words.append(f"--seconds-max={seconds_max}")
    container = application.start(
        image,
        [*words, "--careless", *careless],
        app=CHAOS,
        environment=application.variables(),
        writable={out: "/history"},
    )
    try:
        yield
    finally:
        stop.touch()
        printed(container, seconds=60)


def silent(history: Path, since: float) -> list[str]:
    """Return the clients of which no operation that began after a moment has succeeded."""
    heard = {
        one["client"]
        for one in checkers.read_history(history)
        if one["outcome"] == "ok" and one["began"] > since
    }
    return [one for one in workload.CLIENTS if one not in heard]


def await_workloads(history: Path) -> None:
    """Return once each client has succeeded again, or has had its time to."""
    since = time.monotonic()
    while silent(history, since) and time.monotonic() < since + WORKLOADS_SECONDS_MAX:
        hold(1)


def judge(history: Path, sql: Sql) -> dict[str, list[str]]:
    """Return the violations of each workload, by the history and by the tables in the end."""

    def rows(statement: str) -> list[dict[str, Any]]:
        return [_typed(row) for row in sql.rows(statement, database=NAME)]

    operations = checkers.read_history(history)
    accounts: dict[str, dict[int, int]] = {}
    for row in rows("SELECT bank, id, balance FROM account"):
        accounts.setdefault(row["bank"], {})[row["id"]] = row["balance"]
    lists = {
        row["key"]: json.loads(row["items"])
        for row in rows("SELECT key, array_to_json(items)::text AS items FROM list")
    }
    counters = {row["id"]: row["value"] for row in rows("SELECT id, value FROM counter")}
    return {
        "bank": checkers.check_bank(
            checkers.of("bank", operations),
            accounts,
            rows("SELECT * FROM transfer"),
            workload.INITIAL,
        ),
        "list": checkers.check_lists(checkers.of("list", operations), lists),
        "counter": checkers.check_counters(
            checkers.of("counter", operations), counters, rows("SELECT * FROM increment")
        ),
    }


def _typed(row: dict[str, str]) -> dict[str, Any]:
    return {name: int(text) if text.lstrip("-").isdigit() else text for name, text in row.items()}


# Verdicts --------------------------------------------------------------------------------------


def conclude(
    record: Record, load: Load, sql: Sql, history: Path, *, deadline_seconds: float
) -> None:
    """Add to a campaign's record what the load and the histories say of the invariants."""
    found = record.violations
    found["W"] += _said(lambda: oracle.check_writes(load, sql))
    for name, violations in judge(history, sql).items():
        found["W"] += [f"{name}: {one}" for one in violations]
    found["D"] += _said(lambda: oracle.check_deadlines(load, deadline_seconds))
    last = max((one.ended for one in record.events), default=record.began)
    found["R"] += [
        f"{one}: none of its operations succeeded after the last round"
        for one in silent(history, last)
    ]
    found["S"] += _said(lambda: oracle.check_answers(uncut(load.samples, record.events)))
    found["L"] += _said(lambda: oracle.check_nothing_left(sql))
    found["L"] += [
        f"{tier}: {after.files[tier]} open files, {count} before the first round"
        for before, after in pairwise(record.quiet)
        for tier, count in before.files.items()
        if after.files[tier] > count + FILES_MAX
    ]


def _said(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except BaseException as problem:  # pytest's failures are no Exception
        if isinstance(problem, KeyboardInterrupt):
            raise
        return [str(problem)[:4000]]
    return []


def uncut(samples: Sequence[Sample], events: Sequence[Event]) -> list[Sample]:
    """Leave out the requests that have no answer because their api process was killed."""
    cutting = {fault.name for fault in FAULTS if fault.cuts_callers}
    spans = [
        (one.began, one.ended + CUT_SECONDS)
        for one in events
        if one.fault in cutting and not one.not_done
    ]
    return [
        one
        for one in samples
        if one.status
        or not any(one.started < ended and one.ended > began for began, ended in spans)
    ]


def as_series(record: Record, load: Load, **options: object) -> dict[str, Any]:
    """Return what the page shows: seconds into the run, and by each second what callers saw.

    `options` are what else was asked of the campaign.
    """
    seconds = math.ceil(record.ended - record.began) + 1
    good, failed = [0] * seconds, [0] * seconds
    slowest: list[list[float]] = [[] for _ in range(seconds)]
    for one in load.of():
        second = int(one.ended - record.began)
        if 0 <= second < seconds:
            if is_good(one):
                good[second] += 1
            else:
                failed[second] += 1
            slowest[second].append(one.seconds)
    return {
        "options": {"seed": record.seed, **options},
        "events": [
            asdict(one) | {"began": one.began - record.began, "ended": one.ended - record.began}
            for one in record.events
        ],
        "recoveries": [asdict(one) for one in record.recoveries],
        "violations": record.violations,
        "good": good,
        "failed": failed,
        "p95_ms": [1000 * oracle.quantile(one, 0.95) if one else None for one in slowest],
        "quiet": [asdict(one) for one in record.quiet],
        "waiting": [(at - record.began, count) for at, count in record.waiting],
        "requests": len(load.of()),
    }
