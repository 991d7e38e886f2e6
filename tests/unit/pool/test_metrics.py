"""What a scrape shows of a pool."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.pool import PoolState
from app.pool.metrics import BUCKETS_SECONDS, COUNTERS, GAUGES, Source, Tally, collector_for


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
    tally.acquired(1e-5)
    tally.acquired(1e-3)
    tally.asked_at_checkout()
    assert tally.counts()["checks", "skipped"] == 1


@given(st.lists(st.floats(min_value=0.0, max_value=20.0)))
def test_the_histogram_counts_every_acquisition_once(seconds: list[float]) -> None:
    tally = Tally()
    for one in seconds:
        tally.acquired(one)
    buckets, total = tally.histogram()
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == len(seconds)
    for bound, count in zip(BUCKETS_SECONDS, counts, strict=False):
        assert count == sum(one <= bound for one in seconds)
    assert abs(total - sum(seconds)) < 1e-6


def test_two_pools_share_each_family_of_a_registry() -> None:
    registry = CollectorRegistry()
    for name in ("a", "b"):
        collector_for(registry).add(source(name, Tally()))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) == len(COUNTERS) + len(GAUGES) + 1
    pools = {sample.labels["pool"] for family in families for sample in family.samples}
    assert pools == {"a", "b"}


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
