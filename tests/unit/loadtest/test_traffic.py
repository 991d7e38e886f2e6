"""What users do and when, and when a run has failed."""

from __future__ import annotations

import io
from typing import Any

import pytest

from loadtest.measure.recorder import COLUMNS, ProgressLine, Recorder, table
from loadtest.measure.traffic import (
    KINDS,
    Thresholds,
    TrafficOptions,
    faults,
    parse_mix,
    users_at,
)


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
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: object, name: str) -> None:
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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("out", "lines"), [(io.StringIO, 10), (Terminal, 1)])
def test_progress_is_one_line_on_a_terminal_and_ten_elsewhere(
    out: type[io.StringIO], lines: int
) -> None:
    shown = out()
    line = ProgressLine(Recorder(started=1000.0), 86_400, shown)
    for second in range(0, 86_400, 100):
        line.show(1000.0 + second, 1000)
    line.show(1000.0 + 90_000, 1000)
    line.end()
    found = shown.getvalue().replace("\033[K", "")
    assert found.count("\n") == lines
    assert found.splitlines()[-1].startswith("86,400 of 86,400 s: 1000 users, 0 requests")
    assert max(map(len, found.replace("\r", "\n").splitlines())) < COLUMNS


def test_the_table_of_a_large_run_fits_a_terminal() -> None:
    recorder = Recorder(started=0.0)
    for kind in ("submit", "poll", "results", "summary"):
        for number in range(10):
            recorder.add(kind, 1.0, 20.0, 0, "long\nerror " * 20 if number else "")
    result = recorder.result(1.0)
    for figures in (result["all"], *result["kinds"].values()):
        figures |= {"count": 10_000_000, "failures": 10_000_000, "per_second": 12_345.6}
    text = table(result)
    assert [line.split()[0] for line in text.splitlines()[2:7]] == [*sorted(KINDS), "all"]
    assert "9 x submit: long error long" in text
    assert max(map(len, text.splitlines())) <= COLUMNS


def test_the_table_of_a_run_without_requests_has_no_figures() -> None:
    assert table(Recorder(started=0.0).result(1.0)).splitlines()[-1].endswith("-")
