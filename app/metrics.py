"""The service's Prometheus metrics, each group on a registry that the caller owns."""

import math
import threading
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# Buckets of the last minute: each bound is so many times the one before, so a time that is read
# back is too long by a quarter at most.
FIRST_BOUND_SECONDS, BOUND_GROWTH = 0.001, 1.25
KEPT_SECONDS = 60
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def make_registry() -> CollectorRegistry:
    """Return a registry with the process's own figures (memory, files, garbage)."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class HttpMetrics:
    """Requests by method, route and status; latency by method and route.

    Without a registry they are seen only where processes share their metrics.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._requests = Counter(
            "sluice_http_requests",
            "Requests answered, by status (499: the client left first; 503: or the answer was cut)",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "sluice_http_request_seconds",
            "Time from request to the end of its answer",
            ("method", "route"),
            buckets=SECONDS,
            registry=registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        # A method is the client's own word; as a label it must come from a fixed set.
        label = method if method in METHODS else "OTHER"
        self._requests.labels(label, route, str(status)).inc()
        self._seconds.labels(label, route).observe(seconds)


@dataclass(slots=True)
class _Second:
    """What was answered in one second of the clock, by bucket of the time that it took."""

    at: int
    errors: int = 0
    buckets: Counts[int] = field(default_factory=Counts)


class LastMinute:
    """The answers of the last sixty seconds; safe from any thread.

    Sums over processes are exact: buckets have the same bounds everywhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: deque[_Second] = deque(maxlen=KEPT_SECONDS)

    def observe(self, status: int, seconds: float) -> None:
        """Count one answered request."""
        ratio = max(seconds / FIRST_BOUND_SECONDS, 1.0)
        bucket = math.ceil(math.log(ratio, BOUND_GROWTH))
        with self._lock:
            now = int(self._clock())
            if not self._seconds or self._seconds[-1].at != now:
                self._seconds.append(_Second(now))
            self._seconds[-1].errors += status >= 500
            self._seconds[-1].buckets[bucket] += 1

    def state(self) -> dict[str, Any]:
        """Return the errors (5xx) and, by upper bound in seconds, how many answers took that."""
        counts: Counts[int] = Counts()
        with self._lock:
            first = int(self._clock()) - KEPT_SECONDS
            kept = [one for one in self._seconds if one.at > first]
            for one in kept:
                counts.update(one.buckets)
            errors = sum(one.errors for one in kept)
        buckets = [
            [FIRST_BOUND_SECONDS * BOUND_GROWTH**bucket, count]
            for bucket, count in sorted(counts.items())
        ]
        return {"errors": errors, "buckets": buckets}


class WorkMetrics:
    """What happened to tasks, and how long batches took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.done = _tasks("done", "Tasks whose results were stored", registry)
        self.failed = _tasks("failed", "Tasks that used up their attempts", registry)
        self.retried = _tasks("retried", "Tasks that raised and were queued again", registry)
        self.fenced = _tasks("fenced", "Tasks whose lease was lost before completion", registry)
        self.released = _tasks("released", "Tasks given back unfinished", registry)
        self.batch_seconds = Histogram(
            "sluice_batch_seconds",
            "Time from claim to commit of a batch",
            buckets=SECONDS,
            registry=registry,
        )
        self.loop_errors = Counter(
            "sluice_worker_errors",
            "Turns of a worker thread that ended in an error, by kind",
            ("kind",),
            registry=registry,
        )


def _tasks(outcome: str, description: str, registry: CollectorRegistry) -> Counter:
    return Counter(f"sluice_tasks_{outcome}", description, registry=registry)
