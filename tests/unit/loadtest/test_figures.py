"""Percentiles, histograms, samples: the arithmetic that every page rests on."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import quantiles

import pytest

from loadtest.figures import Histogram, at_least, at_most, spread, summary_ms
from loadtest.run_directory import RunDirectory, reduced


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_a_histogram_is_right_to_two_per_cent(percent: int) -> None:
    dice = random.Random(7)  # noqa: S311  # figures, not a secret
    values = [dice.lognormvariate(-6, 1) for _ in range(20_000)]
    found = Histogram.of(values).percentile(percent)
    exact = quantiles(values, n=100, method="inclusive")[percent - 1]
    assert found == pytest.approx(exact, rel=0.025)


def test_merged_histograms_hold_every_sample_and_survive_json() -> None:
    one, other = Histogram.of([0.001] * 3), Histogram.of([0.1] * 2)
    one.merge(Histogram.from_json(other.to_json()))
    assert one.total == 5
    assert one.percentile(50) == pytest.approx(0.001, rel=0.02)
    assert one.percentile(99) == pytest.approx(0.1, rel=0.02)
    assert one.cumulative()[1][-1] == 1


def test_no_sample_is_no_figure_rather_than_zero() -> None:
    assert summary_ms(Histogram())["p99_ms"] is None


def test_a_spread_says_how_far_the_repeats_lie_apart() -> None:
    found = spread([90.0, 100.0, 120.0])
    assert (found.runs, found.median, found.minimum, found.maximum) == (3, 100.0, 90.0, 120.0)


def test_samples_are_read_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "pgbouncer-1.txt").write_text("t=1 clients=5\nt=2 clients=7\nt=3 clie", "utf-8")
    (samples / "pgbouncer-2.txt").write_text("t=1 clients=2\n", "utf-8")
    series = RunDirectory(tmp_path).samples()
    assert [one.label for one in series] == ["pgbouncer 1", "pgbouncer 2"]
    assert reduced(series, "pgbouncer", "clients", max) == 7
    assert reduced(series, "pgbouncer", "clients", sum, per=2) == 7
    assert reduced(series, "postgres", "clients", max) is None
    assert series[0].between(2, 9).values("clients") == [7]


def test_a_finding_without_a_figure_is_not_measured() -> None:
    assert at_least("x", None, 5).verdict == "not measured"
    assert at_least("x", 5.0, 5).verdict == "yes"
    assert at_most("x", 5.1, 5).verdict == "NO"
