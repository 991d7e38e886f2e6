"""What a pool counts, and how Prometheus reads it.

Counters are plain numbers under one lock, because a checkout touches several of them
and prometheus_client's own objects would take a lock each. A collector turns them,
and the pool's present state, into metric families when somebody asks.
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
"""Upper bounds of the acquisition time: a good checkout takes microseconds."""

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


class Tally:
    """The counts of one pool; every method is safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Prometheus sees a first event only where there was a 0 before it.
        plain = {(name, ""): 0 for name, (label, _) in COUNTERS.items() if not label}
        self._counts: Counter[tuple[str, str]] = Counter(plain)
        self._buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self._seconds = 0.0
        self._asked = 0

    def acquired(self, seconds: float) -> None:
        """Count one acquisition that took `seconds`, waiting and checking included."""
        bucket = bisect_left(BUCKETS_SECONDS, seconds)
        with self._lock:
            self._buckets[bucket] += 1
            self._seconds += seconds

    def asked_at_checkout(self) -> None:
        """Count an acquisition that needed a round trip; all others needed a poll."""
        with self._lock:
            self._asked += 1

    def add(self, counter: str, label: str = "") -> None:
        """Count one event of a counter in COUNTERS."""
        with self._lock:
            self._counts[counter, label] += 1

    def counts(self) -> dict[tuple[str, str], int]:
        """Return every count by counter and label value."""
        with self._lock:
            skipped = sum(self._buckets) - self._asked
            return dict(self._counts) | {("checks", "skipped"): skipped}

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulative buckets and the sum of the acquisition times."""
        with self._lock:
            buckets, seconds = list(self._buckets), self._seconds
        total, cumulative = 0, []
        for bound, count in zip((*BUCKETS_SECONDS, INFINITE), buckets, strict=True):
            total += count
            cumulative.append((str(bound) if bound != INFINITE else "+Inf", float(total)))
        return cumulative, seconds


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
        yield _acquisitions(sources)
        yield from _gauges(sources)
        yield from _counters(sources)


def _acquisitions(sources: list[Source]) -> Metric:
    family = HistogramMetricFamily(
        "dbpool_acquire_seconds", "Time to get a checked connection", labels=["pool"]
    )
    for source in sources:
        buckets, seconds = source.tally.histogram()
        family.add_metric([source.name], buckets, seconds)
    return family


def _gauges(sources: list[Source]) -> Iterator[Metric]:
    states = [source.state() for source in sources]
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
