"""Which point comes next: stage by stage, every size in turn, as many rounds as there is time.

A round goes through all sizes of a stage before any is repeated, so that a drift of the machine
meets every size alike; one that does not fit into the stage's share of the time is not begun.
The shares are as the rounds of the stages take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from loadtest.tune.journal import Journal, sizes_measured
from loadtest.tune.knee import Sweep
from loadtest.tune.space import STAGES, Settings, Stage, with_size

VERIFY = "verify"
VERIFY_LOADS = ("interactive", "batch")
# The "sizes" of the verification: in turns, so that the machine's drift meets both alike.
RECOMMENDED, BEST = 0, 1
# Time of the measured sweeps; the rest is for verifying what they chose.
SWEEP_SHARE = 0.8
# Applying and starting the containers around a measurement, in seconds.
OVERHEAD_SECONDS = 4.0
# Of the first measurement of a load, until one has been made.
FIRST_SECONDS = {"interactive": 8.0, "batch": 3.0}


@dataclass(frozen=True, slots=True)
class Point:
    """What to put in force and to measure next."""

    stage: str
    size: int
    load: str
    settings: Settings

    @property
    def name(self) -> str:
        """Return the point as one word."""
        return f"{self.stage.replace(' ', '-')}:{self.size}"


def next_point(journal: Journal) -> Point | None:
    """Return the next point, or None when all is measured or the time is over."""
    if journal.out_of_time():
        return None
    settings = dict(journal.base)
    for stage in STAGES:
        point = _in_stage(journal, stage, settings)
        if point is not None and journal.spent_seconds < _share_ends(journal, STAGES[-1]):
            return point
        found = sweep(journal, stage)
        if found is not None:
            settings = with_chosen(settings, stage, found.chosen())
    return _verification(journal)


def sweep(journal: Journal, stage: Stage) -> Sweep | None:
    """Return what the whole rounds of a stage gave, by size; None without any measurement.

    Sizes of an unfinished round would be judged by more repeats than the others. Where not even
    the first is whole, its sizes are all there is.
    """
    measured = list(sizes_measured(journal, stage.name))
    if not measured:
        return None
    runs = [[one.throughput for one in journal.of(stage.name, size)] for size in measured]
    rounds = min(len(one) for one in runs)
    return Sweep(measured, [one[:rounds] for one in runs])


def recommended(journal: Journal) -> Settings:
    """Return the settings with every stage's knee."""
    return _with_sizes(journal, Sweep.chosen)


def best(journal: Journal) -> Settings:
    """Return the settings with every stage's highest throughput, however large."""
    return _with_sizes(journal, Sweep.best)


def with_chosen(settings: Settings, stage: Stage, size: int) -> Settings:
    """Return the settings with a stage's chosen size, without what only its sweep needed."""
    changed = with_size(settings, stage, size)
    for name in ("API_POOL_MAX_SIZE", stage.reserve_setting):
        if name != stage.setting and name in settings:
            changed[name] = settings[name]
    return changed


def sizes(journal: Journal, stage: Stage) -> list[int]:
    """Return the sizes of a stage that can be measured, the one in force included."""
    wanted = stage.sizes(journal.base)
    return [size for size in wanted if not journal.is_refused(stage.name, size)]


def round_seconds(journal: Journal, stage: Stage) -> float:
    """Return how long one round of a stage takes, by what its load has taken so far."""
    taken = [
        one.ended - one.started
        for known in STAGES
        if known.load == stage.load
        for one in journal.measurements
        if one.stage == known.name
    ]
    each = fmean(taken) if taken else FIRST_SECONDS[stage.load]
    return len(sizes(journal, stage)) * (each + OVERHEAD_SECONDS)


def _in_stage(journal: Journal, stage: Stage, settings: Settings) -> Point | None:
    counts = {size: len(journal.of(stage.name, size)) for size in sizes(journal, stage)}
    if not counts or _is_swept(journal, stage, list(counts.values())):
        return None
    size = min(counts, key=lambda one: (counts[one], one))
    return Point(stage.name, size, stage.load, with_size(settings, stage, size))


def _is_swept(journal: Journal, stage: Stage, counts: list[int]) -> bool:
    """Tell whether a stage has all its rounds, or all that fit into its share of the time."""
    if min(counts) != max(counts) or not min(counts):
        return False
    ends_at = journal.spent_seconds + round_seconds(journal, stage)
    return min(counts) >= journal.options.repeats or ends_at > _share_ends(journal, stage)


def _share_ends(journal: Journal, stage: Stage) -> float:
    """Return the spent seconds at which the share of a stage ends: what is left goes on."""
    rounds = [round_seconds(journal, one) for one in STAGES]
    share = sum(rounds[: STAGES.index(stage) + 1]) / sum(rounds)
    return SWEEP_SHARE * share * journal.options.minutes * 60


def _verification(journal: Journal) -> Point | None:
    choices = {RECOMMENDED: recommended(journal), BEST: best(journal)}
    for load in VERIFY_LOADS:
        if not is_comparable(journal, load):
            continue
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


def is_comparable(journal: Journal, load: str) -> bool:
    """Return True if recommendation and best differ in what a load uses.

    Compared with itself, a recommendation would come to 100 %, whatever it gives.
    """
    swept = [found for stage in STAGES if stage.load == load and (found := sweep(journal, stage))]
    return any(one.chosen() != one.best() for one in swept)


def _with_sizes(journal: Journal, choice: Callable[[Sweep], int]) -> Settings:
    settings = dict(journal.base)
    for stage in STAGES:
        found = sweep(journal, stage)
        if found is not None:
            settings = with_chosen(settings, stage, choice(found))
    return settings
