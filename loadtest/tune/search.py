"""Which point comes next: stage by stage, every size in turn, as many rounds as there is time.

A round goes through all sizes of a stage before any is repeated, so that a drift of the machine
meets every size alike. The time left is shared out among the stages that are still to come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.tune.journal import Journal, sizes_measured
from loadtest.tune.knee import Sweep
from loadtest.tune.space import STAGES, Knobs, Stage, with_size

VERIFY = "verify"
VERIFY_LOADS = ("interactive", "batch")
# The "sizes" of the verification: in turns, so that the machine's drift meets both alike.
RECOMMENDED, BEST = 0, 1
# Time of the measured sweeps; the rest is for verifying what they chose.
SWEEP_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Point:
    """What to put in force and to measure next."""

    stage: str
    size: int
    load: str
    knobs: Knobs

    @property
    def name(self) -> str:
        """Return the point as one word."""
        return f"{self.stage.replace(' ', '-')}:{self.size}"


def next_point(journal: Journal) -> Point | None:
    """Return the next point, or None when all is measured or the time is over."""
    if journal.out_of_time():
        return None
    knobs = dict(journal.base)
    for number, stage in enumerate(STAGES):
        point = _in_stage(journal, stage, number, knobs)
        if point is not None and not _share_is_spent(journal, len(STAGES) - 1):
            return point
        found = sweep(journal, stage)
        if found is not None:
            knobs = with_chosen(knobs, stage, found.chosen())
    return _verification(journal)


def sweep(journal: Journal, stage: Stage) -> Sweep | None:
    """Return what was measured of a stage, by size; None without any measurement."""
    measured = list(sizes_measured(journal, stage.name))
    if not measured:
        return None
    return Sweep(
        measured,
        [[one.throughput for one in journal.of(stage.name, size)] for size in measured],
    )


def recommended(journal: Journal) -> Knobs:
    """Return the knobs with every stage's knee."""
    return _with_sizes(journal, Sweep.chosen)


def best(journal: Journal) -> Knobs:
    """Return the knobs with every stage's highest throughput, however large."""
    return _with_sizes(journal, Sweep.best)


def with_chosen(knobs: Knobs, stage: Stage, size: int) -> Knobs:
    """Return the knobs with a stage's chosen size, without what only its sweep needed."""
    changed = with_size(knobs, stage, size)
    for name in ("API_POOL_MAX_SIZE", stage.reserve_knob):
        if name != stage.knob and name in knobs:
            changed[name] = knobs[name]
    return changed


def sizes(journal: Journal, stage: Stage) -> list[int]:
    """Return the sizes of a stage that can be measured, the one in force included."""
    wanted = stage.sizes(journal.base)
    return [size for size in wanted if not journal.is_refused(stage.name, size)]


def _in_stage(journal: Journal, stage: Stage, number: int, knobs: Knobs) -> Point | None:
    counts = {size: len(journal.of(stage.name, size)) for size in sizes(journal, stage)}
    if not counts:
        return None
    fewest = min(counts.values())
    if fewest >= journal.options.repeats or (fewest and _share_is_spent(journal, number)):
        return None
    size = next(size for size, count in counts.items() if count == fewest)
    return Point(stage.name, size, stage.load, with_size(knobs, stage, size))


def _share_is_spent(journal: Journal, number: int) -> bool:
    share = SWEEP_SHARE * (number + 1) / len(STAGES)
    return journal.spent_seconds >= share * journal.options.minutes * 60


def _verification(journal: Journal) -> Point | None:
    choices = {RECOMMENDED: recommended(journal), BEST: best(journal)}
    if choices[RECOMMENDED] == choices[BEST]:
        del choices[BEST]
    for load in VERIFY_LOADS:
        name = f"{VERIFY} {load}"
        counts = {
            size: len(journal.of(name, size))
            for size in choices
            if not journal.is_refused(name, size)
        }
        if counts and min(counts.values()) < journal.options.verify:
            size = min(counts, key=lambda one: (counts[one], one))
            return Point(name, size, load, choices[size])
    return None


def _with_sizes(journal: Journal, choice: Callable[[Sweep], int]) -> Knobs:
    knobs = dict(journal.base)
    for stage in STAGES:
        found = sweep(journal, stage)
        if found is not None:
            knobs = with_chosen(knobs, stage, choice(found))
    return knobs
