"""What a scrape shows of a pool."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.pool import PoolState
from app.pool.metrics import (
    BUCKETS_SECONDS,
    COUNTERS,
    GAUGES,
    NUMBERS,
    TIMES,
    Source,
    Tally,
    Times,
    collector_for,
)


def source(name: str, tally: Tally) -> Source:
    return Source(name, lambda: PoolState(name, 3, 1, 4, 2, 1, 0, 8), tally, dict)


def value(registry: CollectorRegistry, sample: str, **labels: str) -> float | None:
    return registry.get_sample_value(sample, labels)


def test_gauges_read_the_state_at_the_scrape() -> None:
    registry = CollectorRegistry()
    collector_for(registry).add(source("p", Tally()))
    assert value(registry, "dbpool_in_use", pool="p") == 2
    assert value(registry, "dbpool_max_waiting", pool="p") == 8


def test_counters_carry_their_label() -> None:
    registry, tally = CollectorRegistry(), Tally()
    collector_for(registry).add(source("p", tally))
    tally.add("discards", "lost")
    tally.add("discards", "lost")
    assert value(registry, "dbpool_discards_total", pool="p", reason="lost") == 2


def test_an_acquisition_without_a_round_trip_is_a_skipped_check() -> None:
    tally = Tally()
    tally.wait_time.add(1e-5)
    tally.wait_time.add(1e-3)
    tally.asked_at_checkout()
    assert tally.counts()["checks", "skipped"] == 1


@given(st.lists(st.floats(min_value=0.0, max_value=20.0)))
def test_a_histogram_counts_every_time_once(seconds: list[float]) -> None:
    times = Times()
    for one in seconds:
        times.add(one)
    buckets, total = times.histogram()
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == len(seconds)
    for bound, count in zip(BUCKETS_SECONDS, counts, strict=False):
        assert count == sum(one <= bound for one in seconds)
    assert abs(total - sum(seconds)) < 1e-6
    assert times.count() == len(seconds)


def test_two_pools_share_each_family_of_a_registry() -> None:
    registry = CollectorRegistry()
    for name in ("a", "b"):
        collector_for(registry).add(source(name, Tally()))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    names = [family.name for family in families]
    expected = len(COUNTERS) + len(GAUGES) + 1 + len(NUMBERS) + len(TIMES) + 1
    assert len(names) == len(set(names)) == expected
    for family in families:
        label = "db_client_connection_pool_name" if family.name.startswith("db_") else "pool"
        assert {sample.labels[label] for sample in family.samples} <= {"a", "b"}


def test_the_pool_is_also_there_under_opentelemetry_s_names() -> None:
    registry, tally = CollectorRegistry(), Tally()
    collector_for(registry).add(source("p", tally))
    for times, seconds in ((tally.create_time, 0.02), (tally.wait_time, 2e-5)):
        times.add(seconds)
    tally.use_time.add(0.003)
    tally.add("wait_timeouts")
    pool = {"db_client_connection_pool_name": "p"}
    found = {
        name: value(registry, f"db_client_connection_{name}", **pool)
        for name in ("max", "idle_max", "idle_min", "pending_requests", "timeouts_total")
    }
    assert found == {
        "max": 4,
        "idle_max": 4,
        "idle_min": 1,
        "pending_requests": 0,
        "timeouts_total": 1,
    }
    for state, count in {"used": 2, "idle": 1}.items():
        labels = pool | {"db_client_connection_state": state}
        assert value(registry, "db_client_connection_count", **labels) == count
    sums = {
        name: value(registry, f"db_client_connection_{name}_seconds_sum", **pool) for name in TIMES
    }
    assert sums == {"create_time": 0.02, "wait_time": 2e-5, "use_time": 0.003}
    # One time of acquisition, under both names.
    assert value(registry, "dbpool_acquire_seconds_sum", pool="p") == 2e-5


def test_a_closed_pool_is_no_longer_scraped() -> None:
    registry = CollectorRegistry()
    gone = source("p", Tally())
    collector_for(registry).add(gone)
    collector_for(registry).remove(gone)
    assert value(registry, "dbpool_size", pool="p") is None


def test_the_buckets_reach_from_microseconds_to_ten_seconds() -> None:
    assert BUCKETS_SECONDS[0] == 5e-6
    assert BUCKETS_SECONDS[-1] == 10.0
    assert list(BUCKETS_SECONDS) == sorted(BUCKETS_SECONDS)
