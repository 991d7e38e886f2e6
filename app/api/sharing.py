"""The metrics of all serving processes in one answer, whichever process gives it.

prometheus_client's own multiprocess mode: each process keeps its values in files of memory that
all map, and an answer adds up the files. What a process has counted is still there when it has
retired, or was killed: requests are counted in the files themselves. A process takes over the
files of one that has ended, by the number of its seat, so that there are never more than the
processes that ran at once. Sizes (gauges) are sums over the processes that live; the supervisor
removes those of a dead one.

The mode knows nothing of collectors, which the pool, memory, processor time and garbage are read
from: the pool's counts are plain numbers, because one in such a file costs each checkout several
times as much. They are copied into the files once a second and at each answer, so what is lost with
a process that is killed is the last second of these. Rejected: to ask the other processes at each
answer, which loses all that a dead one had counted.
"""

import asyncio
import contextlib
import os
import struct
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry, Metric, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

from app.api.supervisor import METRICS_VARIABLE

COPY_SECONDS = 1.0
TRIES, AGAIN_SECONDS = 5, 0.02
# The others are sums; of these that would say nothing.
LARGEST = frozenset(
    {"process_start_time_seconds", "process_max_fds", "python_info", "dbpool_unreachable"}
)
_Key = tuple[str, tuple[tuple[str, str], ...]]


def share_metrics(seat: int) -> None:
    """Keep the values of this process in the files of a seat; call before any is made."""
    own = values.MultiProcessValue(lambda: seat)  # type: ignore[no-untyped-call]  # has no types
    values.ValueClass = own


class SharedMetrics:
    """What this process and the others have counted; `registry` holds collectors only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._collected = registry
        self._lock = threading.Lock()
        # The value in the file, and how much of what was collected is in it.
        self._copies: dict[_Key, tuple[Any, float]] = {}
        self._shared = CollectorRegistry()
        folder = os.environ[METRICS_VARIABLE]
        MultiProcessCollector(self._shared, folder)  # type: ignore[no-untyped-call]  # has no types

    def text(self) -> bytes:
        """Return every metric of all processes as Prometheus text."""
        self.copy()
        for _ in range(TRIES):
            # A file is empty for an instant when its process begins it.
            with contextlib.suppress(struct.error):
                return generate_latest(self._shared)
            time.sleep(AGAIN_SECONDS)
        return generate_latest(self._shared)

    def copy(self) -> None:
        """Bring what was collected since the last time into the files."""
        with self._lock:
            for family in self._collected.collect():
                below: _Key = ("", ())
                before = 0.0
                for sample in family.samples:
                    if not sample.name.endswith("_bucket"):
                        self._copy(family, sample, sample.value)
                        continue
                    # Cumulative in a sample, each by itself in the file.
                    rest = {name: text for name, text in sample.labels.items() if name != "le"}
                    series = _key(sample.name, rest)
                    own = sample.value - (before if series == below else 0.0)
                    below, before = series, sample.value
                    self._copy(family, sample, own)

    def _copy(self, family: Metric, sample: Sample, value: float) -> None:
        if family.type == "histogram" and sample.name.endswith("_count"):
            # The sum of the buckets.
            return
        key = _key(sample.name, sample.labels)
        copy, copied = self._copies.get(key) or (_value(family, sample), 0.0)
        if family.type == "gauge":
            copy.set(value)
        else:
            copy.inc(value - copied)
        self._copies[key] = copy, value

    @contextlib.asynccontextmanager
    async def copying(self) -> AsyncIterator[None]:
        """Copy every second within the block, and at its end.

        In a thread of its own: requests that wait for theirs must not hold the numbers back.
        """
        own = CapacityLimiter(1)

        async def again() -> None:
            while True:
                await asyncio.sleep(COPY_SECONDS)
                await to_thread.run_sync(self.copy, limiter=own)

        task = asyncio.create_task(again())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await to_thread.run_sync(self.copy, limiter=own)


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, tuple(sorted(labels.items()))


def _value(family: Metric, sample: Sample) -> Any:
    mode = "livemax" if family.name in LARGEST else "livesum"
    names, texts = list(sample.labels), list(sample.labels.values())
    return values.ValueClass(
        family.type,
        family.name,
        sample.name,
        names,
        texts,
        family.documentation,
        multiprocess_mode=mode if family.type == "gauge" else "",
    )
