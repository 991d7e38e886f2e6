"""A campaign: faults drawn by a seed, in rounds, under load, and what must hold all the while.

A round begins one to three faults within seconds of each other, lets each last as drawn, and waits
until requests succeed again. Beside the load on the api run the workloads of workload.py, whose
histories are judged at the end.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos import checkers, workload
from tests.chaos.faults import FAULTS, Fault, Ground
from tests.faults import oracle
from tests.faults.load import KINDS, Load, Sample
from tests.fix_clients import Application, printed
from tests.fix_faults import hold
from tests.fix_sql import AdminConsole, Sql

NAME = "proof"
CHAOS = Path(__file__).parent
TOGETHER = 3
SPREAD_SECONDS = 3.0
# Requests must succeed for so long before a round is over, and a round is given up after this.
CALM_SECONDS = 4.0
CALM_SECONDS_MAX = 120.0
# The faults of a round last so long at most: an operation may hang, and take long to be finished.
FAULTS_SECONDS_MAX = 600.0
# After the last round each client of the workloads has so long for an operation that succeeds.
WORKLOADS_SECONDS_MAX = 60.0
# As many as are answered within that time, and more.
TAIL = 50_000
CUT_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Event:
    """A fault that was done: when it began and ended, in monotonic seconds, and its error."""

    round: int
    fault: str
    began: float
    ended: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long requests went on failing after a round's last fault, and how long they might."""

    round: int
    seconds: float
    bound: float


@dataclass
class Record:
    """What a campaign did and saw; times are monotonic seconds."""

    seed: int
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    events: list[Event] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    # By invariant (W, D, R, L, S): what broke it, the first one first.
    violations: dict[str, list[str]] = field(default_factory=lambda: {one: [] for one in "WDRLS"})


def is_good(sample: Sample) -> bool:
    """Return True for a request that succeeded."""
    return 200 <= sample.status < 300


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
    application: Application, image: str, out: Path, *, seed: int, careless: Collection[str] = ()
) -> Iterator[None]:
    """Run the workloads during the block, and until each client has its last answer."""
    stop = application.secret("stop")
    stop.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    words = ["python", "/app/workload.py", f"--seed={seed}", "--out=/history"]
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


# Rounds ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault of a round: when it begins after the round does, and how long it lasts."""

    fault: Fault
    random: Random
    after: float
    lasts: float


def planned(seed: int, number: int, faults: Sequence[Fault] = FAULTS) -> list[Planned]:
    """Return what a round does: the same for the same seed, whatever came before it."""
    random = Random(f"{seed} {number}")  # noqa: S311  # reproducible, no secret
    count = random.choices(range(1, TOGETHER + 1), (3, 2, 1))[0]
    return [
        Planned(
            fault,
            Random(f"{seed} {number} {fault.name}"),  # noqa: S311
            random.uniform(0, SPREAD_SECONDS),
            random.uniform(*fault.lasts),
        )
        for fault in random.sample(faults, count)
    ]


def seconds_max(minutes: float) -> float:
    """Return how long a campaign takes at most, with what follows its last round."""
    return 60 * minutes + FAULTS_SECONDS_MAX + CALM_SECONDS_MAX + WORKLOADS_SECONDS_MAX + 30


def recovered(samples: Sequence[Sample], ended: float, until: float) -> float | None:
    """Return how many seconds after `ended` the last request began that failed.

    `until` is the moment before which every request that began has its answer. None while it is not
    sure: no request has succeeded since, or not for long enough.
    """
    after = [one for one in samples if one.kind in KINDS and one.started > ended]
    last = max((one.started for one in after if not is_good(one)), default=ended)
    succeeds = any(one.started > last for one in after)
    return last - ended if succeeds and until - last > CALM_SECONDS else None


class Campaign:
    """Rounds of faults on the running stack for some minutes."""

    def __init__(self, ground: Ground, load: Load, console: AdminConsole, seed: int) -> None:
        self._ground, self._load, self._console = ground, load, console
        self.record = Record(seed)
        self._over = threading.Event()

    def run(self, minutes: float) -> None:
        """Do rounds until the time is over or one does not end; a round that has begun is ended."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        until = time.monotonic() + 60 * minutes
        try:
            for number in itertools.count(1):
                if time.monotonic() > until or not self._round(number):
                    break
        finally:
            self._over.set()
            watcher.join(30)
            self.record.ended = time.monotonic()

    def _round(self, number: int) -> bool:
        """Do a round; return False where it does not come to its end."""
        plan = planned(self.record.seed, number)
        names = " + ".join(one.fault.name for one in plan)
        self._ground.say(f"round {number}: {names}")
        threads = ThreadPoolExecutor(len(plan))
        futures = [threads.submit(self._fault, number, one) for one in plan]
        threads.shutdown(wait=False)
        if wait(futures, FAULTS_SECONDS_MAX).not_done:
            text = f"not over after {FAULTS_SECONDS_MAX:.0f} s"
            self.record.violations["R"].append(f"round {number} ({names}): {text}")
            return False
        events = [one.result() for one in futures]
        self.record.events += events
        for one in events:
            if one.error:
                self.record.violations["R"].append(f"round {number}: {one.fault}: {one.error}")
        ended = max(one.ended for one in events)
        bound = max(one.fault.recovery_seconds for one in plan)
        seconds = self._recovery(ended)
        is_back = seconds is not None
        seconds = CALM_SECONDS_MAX if seconds is None else seconds
        self.record.recoveries.append(Recovery(number, seconds, bound))
        if seconds > bound:
            text = f"requests failed for {seconds:.1f} s after it, not {bound:.0f}"
            self.record.violations["R"].append(f"round {number} ({names}): {text}")
        self._ground.say(f"  requests succeed {seconds:.1f} s after the last fault" * is_back)
        return is_back

    def _fault(self, number: int, one: Planned) -> Event:
        hold(one.after)
        began, error = time.monotonic(), ""
        try:
            with one.fault.block(self._ground, one.random):
                hold(one.lasts)
        except BaseException as problem:  # pytest's failures are no Exception
            error = f"{type(problem).__name__}: {problem}"[:2000]
        return Event(number, one.fault.name, began, time.monotonic(), error)

    def _recovery(self, ended: float) -> float | None:
        """Return how many seconds after `ended` the last request began that failed, or None."""
        while time.monotonic() < ended + CALM_SECONDS_MAX:
            until = self._load.answered_until()
            seconds = recovered(self._load.samples[-TAIL:], ended, until)
            if seconds is not None:
                return seconds
            hold(0.5)
        return None

    def _watch(self) -> None:
        """Count every two seconds who waits in PgBouncer for a server connection."""
        while not self._over.wait(2):
            try:
                replicas = len(self._ground.stack.containers("pgbouncer"))
                waiting = sum(
                    int(row["cl_waiting"])
                    for replica in range(replicas)
                    for row in self._console.show("POOLS", replica=replica)
                )
            except BaseException:  # noqa: S112  # nobody answers during a fault
                continue
            self.record.waiting.append((time.monotonic(), waiting))


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
    spans = [(one.began, one.ended + CUT_SECONDS) for one in events if one.fault in cutting]
    return [
        one
        for one in samples
        if one.status
        or not any(one.started < ended and one.ended > began for began, ended in spans)
    ]


def as_series(record: Record, load: Load) -> dict[str, Any]:
    """Return what the page shows: seconds into the run, and by each second what callers saw."""
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
        "seed": record.seed,
        "events": [
            asdict(one) | {"began": one.began - record.began, "ended": one.ended - record.began}
            for one in record.events
        ],
        "recoveries": [asdict(one) for one in record.recoveries],
        "violations": record.violations,
        "good": good,
        "failed": failed,
        "p95_ms": [1000 * oracle.quantile(one, 0.95) if one else None for one in slowest],
        "waiting": [(at - record.began, count) for at, count in record.waiting],
        "requests": len(load.of()),
    }
