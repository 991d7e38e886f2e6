"""What a pool counts, and how Prometheus reads it.

Counters are plain numbers under one lock, because a checkout touches several of them
and prometheus_client's own objects would take a lock each. A collector turns them,
and the pool's present state, into metric families when somebody asks: under the pool's
own names, and under those of OpenTelemetry's conventions for the pool of a database
client as its exporter for Prometheus writes them. Nothing is measured twice.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from .types import PoolState

BUCKETS_SECONDS = (
    *(5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of every time: a good checkout takes microseconds, a connection milliseconds."""

INFINITE = float("inf")

COUNTERS: dict[str, tuple[str, str]] = {
    "checks": ("result", "Connection checks at checkout and in sweeps; skipped: poll only"),
    "connects": ("result", "Attempts to open a connection"),
    "discards": ("reason", "Connections given up instead of kept"),
    "timeouts": ("kind", "Callers refused a connection, or cut off by their deadline"),
    "retries": ("failure", "Tries repeated by run, by class of the failure"),
    "dirty_returns": ("state", "Connections returned in a transaction or otherwise changed"),
    "commits_in_doubt": ("outcome", "COMMITs without an answer, by what became of them"),
    "leaks": ("", "Loans held longer than the leak threshold"),
    "watchdog_cuts": ("", "Connections cut because the deadline of a loan or a check passed"),
}
GAUGES: dict[str, str] = {
    "size": "Connections open or being made",
    "min_size": "Connections kept open",
    "max_size": "Connections at most",
    "in_use": "Connections lent",
    "idle": "Connections ready to be lent",
    "waiting": "Callers waiting for a connection",
    "max_waiting": "Callers that may wait",
    "unreachable": "1 while no server is reached and every caller is refused at once",
}

# OpenTelemetry's names and attributes, as dots have them; otel.py makes instruments of them.
CONVENTION = "db.client.connection."
POOL_NAME, CONNECTION_STATE = f"{CONVENTION}pool.name", f"{CONVENTION}state"
NUMBERS: dict[str, tuple[str, str, dict[str, str]]] = {
    # Unit, description, and the field of PoolState by the value of the attribute of the state.
    "count": ("{connection}", "Connections by state", {"used": "in_use", "idle": "idle"}),
    "idle.max": ("{connection}", "Idle connections at most", {"": "max_size"}),
    "idle.min": ("{connection}", "Idle connections at least", {"": "min_size"}),
    "max": ("{connection}", "Connections at most", {"": "max_size"}),
    "pending_requests": ("{request}", "Callers waiting for a connection", {"": "waiting"}),
}
TIMEOUTS = "Waits for a connection that ended without one"
TIMES = {
    "create_time": "Time to open a connection",
    "wait_time": "Time to get a checked connection",
    "use_time": "Time from lending a connection to its return",
}


class Times:
    """How often something took how long; every method is safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self._seconds = 0.0
        self.listener: Callable[[float], object] | None = None
        """Called with each time, in seconds, in the thread that it was measured in."""

    def add(self, seconds: float) -> None:
        """Count one that took `seconds`."""
        bucket = bisect_left(BUCKETS_SECONDS, seconds)
        with self._lock:
            self._buckets[bucket] += 1
            self._seconds += seconds
        if self.listener is not None:
            self.listener(seconds)

    def count(self) -> int:
        """Return how many were counted."""
        with self._lock:
            return sum(self._buckets)

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulative buckets and the sum of the times."""
        with self._lock:
            buckets, seconds = list(self._buckets), self._seconds
        total, cumulative = 0, []
        for bound, count in zip((*BUCKETS_SECONDS, INFINITE), buckets, strict=True):
            total += count
            cumulative.append((str(bound) if bound != INFINITE else "+Inf", float(total)))
        return cumulative, seconds


class Tally:
    """The counts of one pool; every method is safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Prometheus sees a first event only where there was a 0 before it.
        plain = {(name, ""): 0 for name, (label, _) in COUNTERS.items() if not label}
        self._counts: Counter[tuple[str, str]] = Counter(plain)
        self._asked = 0
        # Of an acquisition waiting and checking are included.
        self.create_time, self.wait_time, self.use_time = Times(), Times(), Times()

    def asked_at_checkout(self) -> None:
        """Count an acquisition that needed a round trip; all others needed a poll."""
        with self._lock:
            self._asked += 1

    def add(self, counter: str, label: str = "") -> None:
        """Count one event of a counter in COUNTERS, or of `wait_timeouts`."""
        with self._lock:
            self._counts[counter, label] += 1

    def counts(self) -> dict[tuple[str, str], int]:
        """Return every count by counter and label value."""
        with self._lock:
            skipped = self.wait_time.count() - self._asked
            return dict(self._counts) | {("checks", "skipped"): skipped}

    def timeouts(self) -> int:
        """Return how many waits for a connection ended without one."""
        with self._lock:
            return self._counts["wait_timeouts", ""]


@dataclass(frozen=True, slots=True)
class Source:
    """One pool as the collector sees it."""

    name: str
    state: Callable[[], PoolState]
    tally: Tally
    extra: Callable[[], dict[tuple[str, str], int]]

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the tally's counts and those kept elsewhere."""
        return self.tally.counts() | self.extra()


class PoolCollector(Collector):
    """Yields each family once with a sample per pool: one collector serves a registry."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Include a pool in what is collected."""
        self._sources.append(source)

    def remove(self, source: Source) -> None:
        """Leave out a pool that was closed; calling again changes nothing."""
        self._sources = [known for known in self._sources if known is not source]

    def collect(self) -> Iterable[Metric]:
        """Yield every metric family from the present state."""
        sources = list(self._sources)
        states = [source.state() for source in sources]
        yield _times("dbpool_acquire_seconds", "wait_time", "pool", sources)
        yield from _gauges(states)
        yield from _counters(sources)
        yield from _conventional(sources, states)


def _times(name: str, which: str, label: str, sources: list[Source]) -> Metric:
    family = HistogramMetricFamily(name, TIMES[which], labels=[label])
    for source in sources:
        buckets, seconds = getattr(source.tally, which).histogram()
        family.add_metric([source.name], buckets, seconds)
    return family


def _gauges(states: list[PoolState]) -> Iterator[Metric]:
    for field, text in GAUGES.items():
        family = GaugeMetricFamily(f"dbpool_{field}", text, labels=["pool"])
        for state in states:
            family.add_metric([state.name], getattr(state, field))
        yield family


def _counters(sources: list[Source]) -> Iterator[Metric]:
    counted = [(source.name, source.counts()) for source in sources]
    for counter, (label, text) in COUNTERS.items():
        labels = ["pool", label] if label else ["pool"]
        family = CounterMetricFamily(f"dbpool_{counter}", text, labels=labels)
        for name, counts in counted:
            for (known, value), count in sorted(counts.items()):
                if known == counter:
                    family.add_metric([name, value] if label else [name], count)
        yield family


def _conventional(sources: list[Source], states: list[PoolState]) -> Iterator[Metric]:
    pool, of_state = (name.replace(".", "_") for name in (POOL_NAME, CONNECTION_STATE))
    prefix = CONVENTION.replace(".", "_")
    for name, (_unit, text, fields) in NUMBERS.items():
        labels = [pool] if "" in fields else [pool, of_state]
        family = GaugeMetricFamily(prefix + name.replace(".", "_"), text, labels=labels)
        for state in states:
            for value, field in fields.items():
                family.add_metric([state.name, value][: len(labels)], getattr(state, field))
        yield family
    timeouts = CounterMetricFamily(f"{prefix}timeouts", TIMEOUTS, labels=[pool])
    for source in sources:
        timeouts.add_metric([source.name], source.tally.timeouts())
    yield timeouts
    for which in TIMES:
        yield _times(f"{prefix}{which}_seconds", which, pool, sources)


_collectors: weakref.WeakKeyDictionary[CollectorRegistry, PoolCollector] = (
    weakref.WeakKeyDictionary()
)
_collectors_lock = threading.Lock()


def collector_for(registry: CollectorRegistry) -> PoolCollector:
    """Return the collector of a registry, registered on first use."""
    with _collectors_lock:
        if registry not in _collectors:
            collector = PoolCollector()
            registry.register(collector)
            _collectors[registry] = collector
        return _collectors[registry]
