"""A pool's metrics as instruments of OpenTelemetry, for services that have its SDK.

It needs `opentelemetry-api`, which nothing else here imports. The names are those of the
semantic conventions for the pool of a database client; what they show is what `metrics.py`
counts. OpenTelemetry's own exporter for Prometheus knows one process only, so a service of
several processes has the same names from `metrics.py` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from .metrics import (
    BUCKETS_SECONDS,
    CONNECTION_STATE,
    CONVENTION,
    NUMBERS,
    POOL_NAME,
    TIMEOUTS,
    TIMES,
    Source,
)
from .pool import DatabasePool

Callback = Callable[[CallbackOptions], Iterable[Observation]]


def instrument(meter: Meter, *pools: DatabasePool) -> None:
    """Show pools by instruments of a meter: call it once, with all pools.

    Numbers are observed when they are read; times are recorded as they are measured, which
    costs a checkout what the SDK takes for two records.
    """
    sources = [pool.source for pool in pools]
    for name, (unit, text, fields) in NUMBERS.items():
        meter.create_observable_up_down_counter(
            CONVENTION + name, [_numbers(sources, fields)], unit, text
        )
    meter.create_observable_counter(
        f"{CONVENTION}timeouts", [_timeouts(sources)], "{timeout}", TIMEOUTS
    )
    for name, text in TIMES.items():
        histogram = meter.create_histogram(
            CONVENTION + name, "s", text, explicit_bucket_boundaries_advisory=BUCKETS_SECONDS
        )
        for source in sources:
            times = getattr(source.tally, name)
            times.listener = partial(histogram.record, attributes={POOL_NAME: source.name})


def _numbers(sources: list[Source], fields: dict[str, str]) -> Callback:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for source in sources:
            state = source.state()
            for value, field in fields.items():
                attributes = {POOL_NAME: source.name} | ({CONNECTION_STATE: value} if value else {})
                yield Observation(getattr(state, field), attributes)

    return observe


def _timeouts(sources: list[Source]) -> Callback:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for source in sources:
            yield Observation(source.tally.timeouts(), {POOL_NAME: source.name})

    return observe
