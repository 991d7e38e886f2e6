"""A soak fails when something grew, and not because it is small or because it warms up."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.measure.growth import measure
from loadtest.measure.isolation import COMPUTING, IDLE, JUDGED, faults
from loadtest.run_directory import Series


def series(memory: Callable[[int], float], files: Callable[[int], float]) -> list[Series]:
    samples = tuple(
        {"t": float(t), "process_own_kb": memory(t), "files": files(t)} for t in range(100)
    )
    return [Series("api", "1", samples)]


def grew(found: list[Series]) -> list[str]:
    return [one.figure for one in measure(found, percent_max=10) if one.grew]


def test_a_leak_of_memory_is_growth() -> None:
    assert grew(series(lambda t: 60_000 + 500 * t, lambda _: 20)) == [
        "memory (PSS without shared memory)"
    ]


def test_a_leak_of_files_is_growth() -> None:
    assert grew(series(lambda _: 60_000, lambda t: 20 + t)) == ["open files"]


def test_warming_up_is_not_growth() -> None:
    assert grew(series(lambda t: 60_000 if t > 20 else 20_000, lambda _: 20)) == []


def test_a_few_files_more_are_not_growth() -> None:
    assert grew(series(lambda _: 60_000, lambda t: 20 + t % 9)) == []


def test_too_few_samples_are_no_verdict() -> None:
    (one,) = series(lambda t: 10_000.0 * t, lambda _: 20)
    assert grew([Series("api", "1", one.samples[:5])]) == []


def phases(idle: float, judged: float, failures: int = 0) -> dict[str, dict[str, object]]:
    return {
        name: {"all": {"p99_ms": p99}, "failures": failures if name == JUDGED else 0}
        for name, p99 in ((IDLE, idle), (JUDGED, judged), (COMPUTING, 10 * judged))
    }


def test_a_full_batch_pool_may_double_the_p99_and_not_more() -> None:
    assert faults(phases(10, 20), ratio_max=2) == []
    assert "2.10 times" in faults(phases(10, 21), ratio_max=2)[0]


def test_a_failed_request_is_a_fault_of_its_own() -> None:
    assert "1 requests failed" in faults(phases(10, 10, failures=1), ratio_max=2)[0]
