"""The knee, the order of points, and the env file that comes out."""

from __future__ import annotations

import datetime
import random
import time
from pathlib import Path

import pytest

from infra.config import envfile
from infra.config.measured import this_machine, why_void
from loadtest.run_directory import RunDirectory, Series
from loadtest.tune import journal as journals
from loadtest.tune import outcome
from loadtest.tune.journal import Journal, Measurement, TuneOptions
from loadtest.tune.knee import MIN_ROUNDS, Sweep
from loadtest.tune.search import (
    BEST,
    RECOMMENDED,
    STAGES,
    next_point,
    recommended,
    sweep,
    with_chosen,
    with_size,
)

BASE = {
    "PGBOUNCER_INTERACTIVE_POOL_SIZE": "1",
    "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": "1",
    "API_POOL_MAX_SIZE": "1",
    "API_POOL_MIN_SIZE": "1",
    "PGBOUNCER_BATCH_POOL_SIZE": "8",
    "PGBOUNCER_BATCH_MIN_POOL_SIZE": "2",
    "WORKER_POOL_MAX_SIZE": "6",
    "WORKER_POOL_MIN_SIZE": "2",
    "WORKER_THREADS": "4",
}


def start(minutes: float = 10.0, repeats: int = 2) -> Journal:
    return Journal(TuneOptions(minutes=minutes, repeats=repeats), dict(BASE), started=0.0)


def measure(
    journal: Journal, *, seconds: float = 1.0, at_most: int = 500, rising: bool = False
) -> list[tuple[str, int]]:
    """Go on until no point is left; throughput grows with the size up to 4, `rising` a bit beyond.

    Then the best of a sweep is larger than the recommendation.
    """
    taken: list[tuple[str, int]] = []
    while (point := next_point(journal)) is not None and len(taken) < at_most:
        taken.append((point.stage, point.size))
        size = int(point.settings["PGBOUNCER_INTERACTIVE_POOL_SIZE"])
        stages = [stage for stage in STAGES if stage.name == point.stage]
        size = int(point.settings[stages[0].setting]) if stages else size
        throughput = 100.0 * min(size, 4) + (0.1 * size if rising else 0.0)
        one = Measurement(point.stage, point.size, throughput, 1, 2, 1, 10, 0, 0, 1)
        journal.measurements.append(one)
        journal.spent_seconds += seconds
    return taken


def test_the_knee_is_the_smallest_size_as_good_as_the_best() -> None:
    found = Sweep([1, 2, 4, 8], [[100, 102], [180, 182], [199, 200], [200, 201]]).knee()
    assert (found.size, found.best_size) == (4, 8)
    assert found.share_percent > 97


def test_noisy_repeats_make_the_knee_uncertain() -> None:
    sure = Sweep([1, 2], [[100, 100, 100], [150, 150, 150]]).knee()
    unsure = Sweep([1, 2], [[90, 150, 130], [110, 150, 140]]).knee()
    assert sure.interval == (2, 2)
    assert unsure.interval == (1, 2)


@pytest.mark.parametrize(
    ("optimum", "noise", "repeats"), [(4, 0.03, 3), (4, 0.08, 3), (8, 0.03, 6), (1, 0.03, 4)]
)
def test_a_known_optimum_lies_in_its_interval(optimum: int, noise: float, repeats: int) -> None:
    covered, widths = 0, []
    for seed in range(100):
        dice = random.Random(seed)  # noqa: S311  # noise, not a secret
        journal = start(minutes=1000, repeats=repeats)
        drift = [dice.gauss(0, 0.1) for _ in range(repeats)]
        while (point := next_point(journal)) is not None and point.stage == STAGES[0].name:
            at = drift[len(journal.of(point.stage, point.size))] + dice.gauss(0, noise)
            throughput = 60.0 * min(point.size, optimum) * (1 + at)
            journal.measurements.append(
                Measurement(point.stage, point.size, throughput, 1, 2, 1, 10, 0, 0, 1)
            )
        found = sweep(journal, STAGES[0])
        assert found is not None
        knee = found.knee()
        assert knee.interval is not None
        assert knee.interval[0] <= knee.size <= knee.interval[1]
        covered += knee.interval[0] <= optimum <= knee.interval[1]
        widths.append(found.sizes.index(knee.interval[1]) - found.sizes.index(knee.interval[0]))
    assert covered >= 90
    # Covering is no merit of an interval that is always the whole sweep.
    assert any(width < len(STAGES[0].candidates) - 1 for width in widths)


@pytest.mark.parametrize("rounds", [1, MIN_ROUNDS - 1])
def test_too_few_rounds_give_no_interval_and_no_record(rounds: int) -> None:
    journal = start(repeats=rounds)
    measure(journal)
    said = outcome.reasons(journal)[STAGES[0].setting]
    assert "interval not measured: " + ("one round" if rounds == 1 else "2 rounds") in said
    assert "are not clearly better" in said
    for stage in outcome.conclude(journal, [])["stages"]:
        assert stage["knee"]["interval"] is None


def test_only_a_larger_size_that_was_measured_is_called_no_better() -> None:
    rising = Sweep([1, 2, 4], [[100, 101, 99], [200, 201, 199], [300, 301, 299]]).knee()
    level = Sweep([1, 2, 4], [[100, 101, 99], [200, 201, 199], [200, 199, 201]]).knee()
    assert (rising.at_edge, rising.larger_ruled_out) == (True, False)
    assert (level.size, level.at_edge, level.larger_ruled_out) == (2, False, True)


def test_a_recommendation_at_the_edge_says_so() -> None:
    journal = start(repeats=3)
    for _ in range(3):
        for size in (1, 2):
            one = Measurement(STAGES[0].name, size, 100.0 * size, 1, 2, 1, 10, 0, 0, 1)
            journal.measurements.append(one)
    said = outcome.reasons(journal)[STAGES[0].setting]
    assert "90 % interval 2..2 or more" in said
    assert "the largest size measured: a larger one may give more" in said


def test_a_recommendation_is_never_compared_with_itself() -> None:
    journal = start()
    # Throughput is level beyond 4, so that the recommendation is the best as well.
    taken = measure(journal)
    assert not [stage for stage, _ in taken if stage.startswith("verify")]
    for one in outcome.conclude(journal, [])["verified"]:
        assert one["not_measured"] == "the recommendation is itself the best of its sweeps"
        assert "percent_of_best" not in one


def test_a_verification_of_too_few_rounds_is_not_reported() -> None:
    journal = start()
    measure(journal, rising=True)
    first = next(one for one in journal.measurements if one.stage == "verify interactive")
    journal.measurements.remove(first)
    found = outcome.conclude(journal, [])["verified"][0]
    assert found["not_measured"].startswith("2 of at least 3 rounds")


def test_every_size_has_its_turn_before_any_is_repeated() -> None:
    journal = start()
    first = [size for stage, size in measure(journal) if stage == STAGES[0].name]
    half = len(first) // 2
    assert first[:half] == first[half:] == sorted(set(first))


def test_a_bad_env_file_comes_out_with_the_knee_of_each_stage() -> None:
    journal = start()
    measure(journal)
    found = recommended(journal)
    assert found["PGBOUNCER_INTERACTIVE_POOL_SIZE"] == "4"
    assert int(found["API_POOL_MAX_SIZE"]) == 4
    assert int(found["WORKER_POOL_MAX_SIZE"]) >= int(BASE["WORKER_THREADS"])


def test_time_that_is_over_ends_the_search_but_leaves_some_to_verify() -> None:
    journal = start(minutes=1)
    taken = measure(journal, seconds=5.0, rising=True)
    assert journal.spent_seconds <= 60 + 5
    assert [stage for stage, _ in taken if stage.startswith("verify")]


def test_a_round_that_does_not_fit_into_the_time_is_not_begun() -> None:
    journal = start(minutes=4, repeats=9)
    taken = measure(journal, seconds=5.0)
    for stage in STAGES:
        counts = {size: taken.count((stage.name, size)) for size in stage.sizes(BASE)}
        assert len(set(counts.values())) == 1, counts
    assert sum(stage == STAGES[0].name for stage, _ in taken) < 9 * len(STAGES[0].sizes(BASE))


def test_sizes_of_an_unfinished_round_are_judged_by_as_many_repeats_as_the_others() -> None:
    journal = start(repeats=3)
    for size, throughput in ((1, 50.0), (2, 100.0), (1, 900.0)):
        one = Measurement(STAGES[0].name, size, throughput, 1, 2, 1, 10, 0, 0, 1)
        journal.measurements.append(one)
    found = sweep(journal, STAGES[0])
    assert found is not None
    assert found.repeats == [[50.0], [100.0]]
    assert "one round of at least" in outcome.reasons(journal)[STAGES[0].setting]


def test_recommended_and_best_are_verified_in_turns() -> None:
    journal = start()
    taken = [s for stage, s in measure(journal, rising=True) if stage == "verify interactive"]
    assert taken == [RECOMMENDED, BEST] * 3


def test_a_resumed_run_goes_on_with_the_point_it_was_at(tmp_path: object) -> None:
    whole, journal = start(), start()
    everything = measure(whole)
    first = measure(journal, at_most=7)
    directory = RunDirectory(tmp_path)  # type: ignore[arg-type]
    journals.store(directory, journal)
    resumed = journals.load(directory)
    assert resumed is not None
    assert first + measure(resumed) == everything


def test_a_size_that_apply_refuses_is_left_out() -> None:
    journal = start()
    point = next_point(journal)
    assert point is not None
    journal.refuse(point.stage, point.size, "does not fit")
    assert (point.stage, point.size) not in measure(journal)


def test_a_smaller_pool_takes_its_minimum_down_with_it() -> None:
    changed = with_size(BASE, STAGES[2], 1)
    assert changed["PGBOUNCER_BATCH_MIN_POOL_SIZE"] == "1"
    assert with_size(BASE, STAGES[0], 2)["API_POOL_MAX_SIZE"] == "16"


def test_a_server_pool_is_swept_without_its_reserve() -> None:
    base = BASE | {"PGBOUNCER_INTERACTIVE_RESERVE_SIZE": "2"}
    assert with_size(base, STAGES[0], 2)["PGBOUNCER_INTERACTIVE_RESERVE_SIZE"] == "0"
    assert with_chosen(base, STAGES[0], 2)["PGBOUNCER_INTERACTIVE_RESERVE_SIZE"] == "2"
    assert with_size(base, STAGES[1], 8)["API_POOL_MAX_SIZE"] == "8"


def test_the_recommended_file_keeps_everything_else_and_gives_reasons() -> None:
    text = "# Pool.\n# Measured at 1: an earlier one.\nA=1\n# Tried at 2: another.\nB=2\n"
    changes = {"A": "4", "B": "2", "C": "9"}
    assert envfile.edit(text, changes, {"A": "# Measured at 4: the knee."}) == (
        "# Pool.\n# Measured at 4: the knee.\nA=4\nB=2\nC=9\n"
    )


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_record_that_plan_takes_needs_enough_rounds(tmp_path: Path, repeats: int) -> None:
    journal = start(repeats=repeats)
    measure(journal)
    for one in journal.measurements:
        one.ended = time.time()
    base = "".join(f"{name}={value}\n" for name, value in BASE.items())
    text = outcome.write_env(RunDirectory(tmp_path), journal, base)
    marks = {entry.name: entry.mark for entry in envfile.parse(text, name="").entries}
    recorded = {name for name, mark in marks.items() if mark}
    assert recorded == ({stage.setting for stage in STAGES} if repeats == 3 else set())
    today = datetime.datetime.now(datetime.UTC).date()
    for mark in marks.values():
        assert mark is None or not why_void(mark, mark.value, this_machine(), today)


def test_the_outcome_names_what_changes_and_how_it_was_verified() -> None:
    journal = start()
    measure(journal, rising=True)
    found = outcome.conclude(journal, [])
    assert found["changes"]["PGBOUNCER_INTERACTIVE_POOL_SIZE"] == "4"
    assert all(one["percent_of_best"] >= 95 for one in found["verified"])
    assert set(outcome.reasons(journal)) >= {stage.setting for stage in STAGES}


def test_littles_law_at_two_replicas_adds_up() -> None:
    def replica(number: str) -> Series:
        samples = tuple(
            {
                "t": float(second),
                "risk_xacts": 100.0 * second,
                "risk_xact_us": 100.0 * second * 20_000,
                "risk_wait_us": 0.0,
                "risk_busy": 2.0,
            }
            for second in range(11)
        )
        return Series("pgbouncer", number, samples)

    found = outcome.at_pooler([replica("1"), replica("2")], "risk", [(0, 10)])
    assert found is not None
    assert found.transactions_per_second == pytest.approx(200)
    assert found.transaction_ms == pytest.approx(20)
    assert found.busy_by_law == pytest.approx(4)
    assert found.busy_sampled == pytest.approx(4)
