"""A campaign: faults drawn by a seed, in rounds, under load, and what must hold all the while.

A round begins one to three faults within seconds of each other, lets each last as drawn, and waits
until requests succeed again. verdict.py says what it comes to.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from random import Random

from docker.models.containers import Container

from tests.chaos.faults import Fault, NotDone
from tests.chaos.ground import Ground
from tests.faults import oracle
from tests.faults.load import KINDS, Load, Sample
from tests.fix_faults import hold
from tests.fix_sql import AdminConsole
from tests.fix_stack import run_in

TOGETHER = 3
SPREAD_SECONDS = 3.0
# Requests must succeed for so long before a round is over, and a round is given up after this.
CALM_SECONDS = 4.0
CALM_SECONDS_MAX = 120.0
# A server that was killed replays its log first, at most POSTGRES_MAX_WAL_MB of it.
REPLAY_SECONDS_MAX = 60.0
# Latency is taken for so long without a fault, before the first round and after the last.
QUIET_SECONDS = 10.0
# The faults of a round last so long at most: an operation may hang, and take long to be finished.
FAULTS_SECONDS_MAX = 600.0
# After the last round each client of the workloads has so long for an operation that succeeds.
WORKLOADS_SECONDS_MAX = 60.0
# As many as are answered within that time, and more.
TAIL = 50_000


@dataclass(frozen=True, slots=True)
class Event:
    """A fault: when it began and ended, in monotonic seconds, its error, or why it was not done."""

    round: int
    fault: str
    began: float
    ended: float
    error: str = ""
    not_done: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long requests went on failing after a round's last fault, and how long they might."""

    round: int
    seconds: float
    bound: float


@dataclass(frozen=True, slots=True)
class Quiet:
    """A time without a fault: p99 of its requests, and open files of each tier's fullest one."""

    p99_ms: float
    files: dict[str, int]


@dataclass
class Record:
    """What a campaign did and saw; times are monotonic seconds."""

    seed: int
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    events: list[Event] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    # Before the first round and after the last one, if that has ended.
    quiet: list[Quiet] = field(default_factory=list)
    # By invariant (W, D, R, L, S): what broke it, the first one first.
    violations: dict[str, list[str]] = field(default_factory=lambda: {one: [] for one in "WDRLS"})


def is_good(sample: Sample) -> bool:
    """Return True for a request that succeeded."""
    return 200 <= sample.status < 300


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault of a round: when it begins after the round does, and how long it lasts."""

    fault: Fault
    random: Random
    after: float
    lasts: float


def planned(seed: int, number: int, faults: Sequence[Fault]) -> list[Planned]:
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
        for fault in random.sample(faults, min(count, len(faults)))
    ]


def drawn(seed: int, faults: Sequence[Fault]) -> Iterator[list[Planned]]:
    """Yield rounds of one to three faults without an end."""
    return (planned(seed, number, faults) for number in itertools.count(1))


def alone(seed: int, faults: Sequence[Fault], times: int) -> Iterator[list[Planned]]:
    """Yield rounds of one fault, each of them so many times, in an order that the seed gives."""
    order = [fault for fault in faults for _ in range(times)]
    Random(seed).shuffle(order)  # noqa: S311
    return (planned(seed, number, [fault]) for number, fault in enumerate(order, 1))


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

    def run(self, rounds: Iterable[Sequence[Planned]], minutes: float) -> None:
        """Do rounds until the time is over or one does not end; a round that has begun is ended."""
        self._look()
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        until = time.monotonic() + 60 * minutes
        try:
            for number, plan in enumerate(rounds, 1):
                if time.monotonic() > until:
                    break
                if not self._round(number, plan):
                    return
            self._look()
        finally:
            self._over.set()
            watcher.join(30)
            self.record.ended = time.monotonic()

    def _look(self) -> None:
        """Take the latency and the open files of a time without a fault."""
        began = time.monotonic()
        hold(QUIET_SECONDS)
        seconds = [one.seconds for one in self._load.of() if one.started > began]
        files = {
            tier: max(_open_files(one) for one in self._ground.stack.containers(tier))
            for tier in ("api", "worker", "pgbouncer")
        }
        self.record.quiet.append(Quiet(1000 * oracle.quantile(seconds, 0.99), files))

    def _round(self, number: int, plan: Sequence[Planned]) -> bool:
        """Do a round; return False where it does not come to its end."""
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
            if one.not_done:
                self._ground.say(f"  {one.fault}: not done: {one.not_done}")
            # Of several, one can be in another's way.
            if error := one.error or (len(plan) == 1 and one.not_done):
                self.record.violations["R"].append(f"round {number}: {one.fault}: {error}")
        ready = self._ready()
        if ready is None:
            text = f"PostgreSQL takes no connection {REPLAY_SECONDS_MAX:.0f} s after it"
            self.record.violations["R"].append(f"round {number} ({names}): {text}")
            return False
        ended = max(*(one.ended for one in events), ready)
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
        began, error, not_done = time.monotonic(), "", ""
        try:
            with one.fault.block(self._ground, one.random):
                hold(one.lasts)
        except NotDone as problem:
            not_done = str(problem)[:2000]
        except BaseException as problem:  # pytest's failures are no Exception
            error = f"{type(problem).__name__}: {problem}"[:2000]
        return Event(number, one.fault.name, began, time.monotonic(), error, not_done)

    def _ready(self) -> float | None:
        """Return when PostgreSQL takes connections again: from then on requests must succeed.

        None where it does not.
        """
        began = time.monotonic()
        while time.monotonic() < began + REPLAY_SECONDS_MAX:
            container = self._ground.stack.containers("postgres", all_states=True)[0]
            if run_in(container, ["pg_isready", "--quiet"])[0] == 0:
                now = time.monotonic()
                if now > began + 1:
                    self._ground.say(f"  PostgreSQL was ready {now - began:.1f} s later")
                return now
            hold(0.1)
        return None

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


def _open_files(container: Container) -> int:
    code, text = run_in(container, ["sh", "-c", "ls -d /proc/[0-9]*/fd/* 2>/dev/null | wc -l"])
    assert code == 0, text
    return int(text)
