"""The pool's metrics as a service with OpenTelemetry's SDK gets them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from app.pool import DatabasePool, PoolState
from app.pool.metrics import BUCKETS_SECONDS, Source, Tally
from app.pool.otel import instrument


def read(reader: InMemoryMetricReader) -> dict[str, tuple[str | None, dict[tuple[str, ...], Any]]]:
    """Return unit and points of each metric; a point by the values of its attributes."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: (
            metric.unit,
            {
                tuple(str(value) for _, value in sorted((one.attributes or {}).items())): one
                for one in metric.data.data_points
            },
        )
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def pool(name: str, tally: Tally) -> DatabasePool:
    """Return what `instrument` needs of a pool."""
    state = PoolState(name, 3, 1, 4, 2, 1, 5, 8)
    return cast(DatabasePool, SimpleNamespace(source=Source(name, lambda: state, tally, dict)))


def test_an_sdk_gets_every_metric_of_the_conventions_for_each_pool() -> None:
    reader, tally = InMemoryMetricReader(), Tally()
    instrument(MeterProvider([reader]).get_meter("test"), pool("a", tally), pool("b", Tally()))
    tally.add("wait_timeouts")
    tally.create_time.add(0.02)
    tally.wait_time.add(2e-5)
    tally.use_time.add(0.003)
    found = read(reader)
    prefix = "db.client.connection."
    assert {name.removeprefix(prefix): unit for name, (unit, _) in found.items()} == {
        "count": "{connection}",
        "idle.max": "{connection}",
        "idle.min": "{connection}",
        "max": "{connection}",
        "pending_requests": "{request}",
        "timeouts": "{timeout}",
        "create_time": "s",
        "wait_time": "s",
        "use_time": "s",
    }
    count = found[f"{prefix}count"][1]
    assert {key: one.value for key, one in count.items()} == {
        (name, state): number for name in "ab" for state, number in {"used": 2, "idle": 1}.items()
    }
    assert found[f"{prefix}pending_requests"][1]["b",].value == 5
    assert found[f"{prefix}timeouts"][1]["a",].value == 1
    (times,) = found[f"{prefix}wait_time"][1].values()
    assert (times.count, times.sum) == (1, 2e-5)
    assert tuple(times.explicit_bounds) == BUCKETS_SECONDS
