"""What must hold after every fault, checked on the record of a load and in the database.

W: every acknowledged write is present, once; nothing present was never attempted.
D: no request outlives its deadline by more than half a second.
R: the service is back within the stated time.
L: nothing is left behind: no idle transaction, no lease without a worker, no unfinished work.
S: callers saw 2xx, 4xx, or 503 with Retry-After; never 500.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tests.faults.load import Load, Sample
from tests.fix_sql import Sql
from tests.fix_stack import poll

DEADLINE_SLACK_SECONDS = 0.5


def quantile(values: list[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def describe(samples: list[Sample]) -> str:
    """Return counts by kind and status, with the first errors and bodies of each."""
    counts = Counter((one.kind, one.status) for one in samples)
    examples = {(one.kind, one.status): one.error or one.body[:300] for one in samples}
    return "\n".join(f"{count} x {key}: {examples[key]}" for key, count in counts.items())


def check_writes(load: Load, sql: Sql) -> None:
    """W: look for every key of the load in the database."""
    rows = sql.rows(
        "SELECT idempotency_key, count(*) AS copies FROM risk.assessments"
        f" WHERE idempotency_key LIKE '{load.run_prefix}-%' GROUP BY 1"
    )
    present = {row["idempotency_key"]: int(row["copies"]) for row in rows}
    attempted = {one.key for one in load.of("submit")}
    acknowledged = {one.key for one in load.of("submit") if one.status == 202}
    assert acknowledged, "the load submitted nothing: " + describe(load.samples)
    assert not acknowledged - present.keys(), "acknowledged writes are lost"
    assert not present.keys() - attempted, "writes that nobody attempted"
    assert set(present.values()) <= {1}, "a write is there twice"


def check_deadlines(load: Load, deadline_seconds: float) -> None:
    """D: every caller had an answer within the deadline and half a second.

    And the seconds that the callers' own process stood still.
    """
    limit = deadline_seconds + DEADLINE_SLACK_SECONDS
    late = [
        one
        for one in load.of()
        if one.seconds > limit
        and one.seconds
        > limit + sum(stall for at, stall in load.stalls if one.started < at < one.ended + 0.1)
    ]
    assert not late, f"{len(late)} requests took longer than {limit} s:\n{describe(late)}"


def check_answers(samples: Iterable[Sample]) -> None:
    """S: only 2xx, 4xx and 503 with Retry-After; an answer always came."""
    wrong = [
        one
        for one in samples
        if not (200 <= one.status < 300 or 400 <= one.status < 500)
        and not (one.status == 503 and one.retry_after.isdigit())
    ]
    assert not wrong, describe(wrong)


def check_no_failure(load: Load) -> None:
    """Check that no request of the load failed in any way that its caller could see."""
    failed = [one for one in load.samples if not 200 <= one.status < 300]
    assert not failed, describe(failed)


def check_recovery(load: Load, ended: float, within_seconds: float) -> None:
    """R: no request that began this long after the fault's end failed."""
    after = [one for one in load.of() if one.started > ended + within_seconds]
    assert after, "the load ended before the service could show that it is back"
    failed = [one for one in after if not 200 <= one.status < 300]
    assert not failed, describe(failed)


def writes_gap(load: Load, since: float) -> float:
    """Return the longest time without an acknowledged write, from a moment to the load's end."""
    ends = sorted(one.ended for one in load.of("submit") if one.status == 202)
    times = [since, *(end for end in ends if end > since)]
    times.append(max(times[-1], load.ended))
    return max(later - earlier for earlier, later in pairwise(times))


def check_nothing_left(sql: Sql, *, seconds: float = 120) -> None:
    """L: all work ends, and no session stays in a transaction."""
    unfinished = "SELECT count(*) FROM risk.assessments WHERE finished_at IS NULL"
    poll(lambda: sql.value(unfinished) == "0", seconds=seconds, what="every assessment ends")
    leased = "SELECT count(*) FROM risk.tasks WHERE state = 'running'"
    assert sql.value(leased) == "0"
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        " AND state_change < now() - interval '1 s'"
    )
    poll(lambda: sql.value(idle) == "0", seconds=10, what="no session idles in a transaction")
