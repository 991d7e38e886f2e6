"""What may be tuned, and which point comes next: stage by stage, every size in turn.

A round goes through all sizes of a stage before any is repeated, so that a drift of the machine
meets every size alike; one that does not fit into the stage's share of the time is not begun.
The shares are as the rounds of the stages take long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from infra.config import envfile
from infra.config.envfile import assign
from loadtest.tune.journal import Journal, Settings, sizes_measured
from loadtest.tune.knee import Sweep

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
WIDE_API_POOL = 16


@dataclass(frozen=True, slots=True)
class Stage:
    """One sweep: the setting, the load it is measured under, and its highest useful size."""

    name: str
    setting: str
    minimum_setting: str
    load: str
    unit: str
    candidates: tuple[int, ...]
    # A smaller size is refused: one thread would wait for another.
    floor_setting: str = ""

    @property
    def reserve_setting(self) -> str:
        """Return the setting of the reserve beside a server pool; empty for the app's pools."""
        stem, _, rest = self.setting.partition("_POOL_SIZE")
        return "" if rest or stem == self.setting else f"{stem}_RESERVE_SIZE"

    def sizes(self, settings: Mapping[str, str]) -> tuple[int, ...]:
        """Return the sizes to try: the candidates, and what the env file has, above the floor."""
        lowest = int(settings.get(self.floor_setting, "1"))
        now = int(settings.get(self.setting, "0"))
        inside = {*self.candidates, now if now <= max(self.candidates) else 0}
        return tuple(sorted(size for size in inside if size >= lowest))


STAGES = (
    Stage(
        "interactive server pool",
        "PGBOUNCER_INTERACTIVE_POOL_SIZE",
        "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE",
        "interactive",
        "requests/s",
        (1, 2, 4, 6, 8, 12),
    ),
    Stage(
        "api pool",
        "API_POOL_MAX_SIZE",
        "API_POOL_MIN_SIZE",
        "interactive",
        "requests/s",
        (1, 2, 4, 8, 16, 32),
    ),
    Stage(
        "batch server pool",
        "PGBOUNCER_BATCH_POOL_SIZE",
        "PGBOUNCER_BATCH_MIN_POOL_SIZE",
        "batch",
        "tasks/s",
        (1, 2, 4, 6, 8, 12),
    ),
    Stage(
        "worker pool",
        "WORKER_POOL_MAX_SIZE",
        "WORKER_POOL_MIN_SIZE",
        "batch",
        "tasks/s",
        (4, 5, 6, 8),
        "WORKER_THREADS",
    ),
)


@dataclass(frozen=True, slots=True)
class Point:
    """What to apply and to measure next."""

    stage: str
    size: int
    load: str
    settings: Settings

    @property
    def name(self) -> str:
        """Return the point as one word."""
        return f"{self.stage.replace(' ', '-')}:{self.size}"


def effective(text: str) -> Settings:
    """Return every setting of an env file as text, with the values of those it leaves out."""
    values = assign(envfile.parse(text, name="stack.env")).values
    return {name: str(value) for name, value in values.as_dict().items()}


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


def with_size(settings: Mapping[str, str], stage: Stage, size: int) -> Settings:
    """Return the settings with a stage's size, and its minimum lowered where it would exceed it."""
    changed = dict(settings)
    changed[stage.setting] = str(size)
    changed[stage.minimum_setting] = str(min(int(settings.get(stage.minimum_setting, "1")), size))
    if stage.reserve_setting in settings:
        # A reserve would help a pool that is too small: the size must be all there is.
        changed[stage.reserve_setting] = "0"
    if stage.setting == "PGBOUNCER_INTERACTIVE_POOL_SIZE":
        # Behind a narrow pool in the app, the size of the next one cannot be seen.
        wide = max(WIDE_API_POOL, int(settings.get("API_POOL_MAX_SIZE", "1")))
        changed["API_POOL_MAX_SIZE"] = str(wide)
    return changed


def with_chosen(settings: Settings, stage: Stage, size: int) -> Settings:
    """Return the settings with a stage's chosen size, without what only its sweep needed."""
    changed = with_size(settings, stage, size)
    for name in ("API_POOL_MAX_SIZE", stage.reserve_setting):
        if name != stage.setting and name in settings:
            changed[name] = settings[name]
    return changed


def sizes(journal: Journal, stage: Stage) -> list[int]:
    """Return the sizes of a stage that can be measured, the running one included."""
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
    """Return True if a stage has all its rounds, or all that fit into its share of the time."""
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
