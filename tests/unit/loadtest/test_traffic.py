"""What users do and when, and when a run has failed."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.traffic.options import TrafficOptions, parse_mix
from loadtest.traffic.recorder import Recorder
from loadtest.traffic.shapes import users_at
from loadtest.traffic.verdict import Thresholds, faults


def users_over_time(shape: str) -> list[int | None]:
    options = TrafficOptions(users=50, shape=shape, seconds=100)
    return [users_at(options, second) for second in range(0, 101, 5)]


def test_steady_is_everybody_until_the_end() -> None:
    assert users_over_time("steady") == [50] * 20 + [None]


def test_ramp_grows_to_everybody() -> None:
    found = [users for users in users_over_time("ramp") if users is not None]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (5, 50)


def test_spike_is_a_fifth_but_for_a_fifth_of_the_time() -> None:
    found = users_over_time("spike")[:-1]
    assert found.count(50) == 4
    assert set(found) == {10, 50}


def test_soak_starts_gently_and_then_stays() -> None:
    found = users_over_time("soak")
    assert found[0] == 1
    assert set(found[1:-1]) == {50}


@pytest.mark.parametrize("text", ["poll", "poll=x", "fly=1", "poll=0"])
def test_a_mix_that_cannot_be_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="MIX"):
        parse_mix(text)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [("users", 0, "USERS"), ("shape", "wave", "SHAPE"), ("seconds", 0, "RUN_SECONDS")],
)
def test_a_knob_out_of_range_is_refused_by_name(field: str, value: object, name: str) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=name):
        TrafficOptions(**options)


def recorded(*, failures: int = 0, requests: int = 100, seconds: float = 0.01) -> dict[str, Any]:
    recorder = Recorder(started=1000.0)
    for number in range(requests):
        error = "503" if number < failures else ""
        recorder.add("poll", 1000.5 + number / 100, seconds, 503 if error else 200, error)
    return recorder.result(1001.0)


def test_a_run_within_its_thresholds_passes() -> None:
    assert faults(recorded()["all"], Thresholds(0, 1000)) == []


def test_failed_requests_and_slow_ones_are_two_faults() -> None:
    found = faults(recorded(failures=2, seconds=2.0)["all"], Thresholds(1, 1000))
    assert [fault.split("; ")[1].split("=")[0] for fault in found] == [
        "MAX_ERROR_PERCENT",
        "MAX_P95_MS",
    ]


def test_a_run_without_requests_is_a_fault_too() -> None:
    assert faults(recorded(requests=0)["all"], Thresholds())


def test_requests_are_counted_in_the_second_they_end_in() -> None:
    seconds = recorded(requests=100)["seconds"]
    assert [(one["second"], one["requests"]) for one in seconds] == [(0, 50), (1, 50)]
