"""What a finished sweep comes to: a knee per stage, an env file with reasons, a verdict."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from infra.config import envfile
from infra.config.measured import MEASURED, TRIED, this_machine
from loadtest.figures import spread
from loadtest.run_directory import RunDirectory, Series
from loadtest.tune.journal import Journal, Measurement, Settings, sizes_measured
from loadtest.tune.knee import MIN_ROUNDS, Knee
from loadtest.tune.search import (
    BEST,
    RECOMMENDED,
    STAGES,
    VERIFY,
    VERIFY_LOADS,
    Stage,
    is_comparable,
    recommended,
    sweep,
)

ENTRIES = {"interactive": "risk", "batch": "risk_batch"}
FILE = "recommended.env"
MICROSECONDS = 1e6


def conclude(journal: Journal, series: Sequence[Series]) -> dict[str, Any]:
    """Return stages with their points, the recommendation, and how it did when verified."""
    stages = [one for one in (_stage(journal, stage, series) for stage in STAGES) if one]
    return {
        "stages": stages,
        "verified": [one for one in (_verified(journal, load) for load in VERIFY_LOADS) if one],
        "changes": _changes(journal),
        "failures": journal.failures(),
        "spent_seconds": journal.spent_seconds,
        "minutes": journal.options.minutes,
    }


def write_env(directory: RunDirectory, journal: Journal, original: str) -> str:
    """Write the recommended env file beside the results; return its text."""
    wanted, why = recommended(journal), _comments(journal)
    # What stays as it is has a record too, now that it is measured.
    text = envfile.edit(original, {name: wanted[name] for name in {*_changes(journal), *why}}, why)
    (directory.path / FILE).write_text(text, encoding="utf-8")
    return text


def reasons(journal: Journal) -> dict[str, str]:
    """Return a sentence for every setting that was swept: what is known of its size."""
    swept = {stage: sweep(journal, stage) for stage in STAGES}
    return {stage.setting: _reason(stage, one.knee()) for stage, one in swept.items() if one}


def _reason(stage: Stage, knee: Knee) -> str:
    figures = (
        f"{knee.at_knee:.0f} {stage.unit}, {knee.share_percent:.0f} % of the best "
        f"({knee.best:.0f} at {knee.best_size})"
    )
    return f"{figures}; {certainty(knee)}; {_about_larger(knee)}"


def certainty(knee: Knee) -> str:
    """Return the interval and its rounds, or why there is none."""
    rounds = "one round" if knee.rounds == 1 else f"{knee.rounds} rounds"
    if knee.rounds < MIN_ROUNDS:
        return f"interval not measured: {rounds} of at least {MIN_ROUNDS}, raise MINUTES"
    if knee.interval is None:
        return f"interval not measured: one size, {rounds}"
    low, high = knee.interval
    # Where the largest is not shown to be enough, the knee may lie beyond the sweep.
    beyond = " or more" if high == knee.largest_size else ""
    return f"{rounds}, 90 % interval {low}..{high}{beyond}"


def _about_larger(knee: Knee) -> str:
    if knee.at_edge:
        return "the largest size measured: a larger one may give more"
    if knee.larger_ruled_out:
        return f"none larger, up to {knee.largest_size}, gives 3 % more"
    return f"larger ones, up to {knee.largest_size}, are not clearly better"


def _comments(journal: Journal) -> dict[str, str]:
    """Return the line above each swept setting; a record only of a size measured often enough."""
    taken = datetime.datetime.fromtimestamp(
        max(one.ended for one in journal.measurements), datetime.UTC
    )
    machine = this_machine()
    where = f"on {taken:%Y-%m-%d}, {machine.cores} cores, {machine.memory_gib:.1f} GiB"
    why, found = reasons(journal), {}
    for stage in STAGES:
        swept = sweep(journal, stage)
        if swept is not None:
            knee = swept.knee()
            mark = f"{MEASURED}{knee.size} {where}" if knee.interval else f"{TRIED}{knee.size}"
            found[stage.setting] = f"{mark}: {why[stage.setting]}"
    return found


def _changes(journal: Journal) -> Settings:
    """Return the settings whose recommended value is not the running one."""
    wanted = recommended(journal)
    return {name: value for name, value in wanted.items() if journal.base.get(name) != value}


def _stage(journal: Journal, stage: Stage, series: Sequence[Series]) -> dict[str, Any] | None:
    swept = sweep(journal, stage)
    if swept is None:
        return None
    knee = swept.knee()
    points = [
        _point(journal.of(stage.name, size), size, stage, series)
        for size in sizes_measured(journal, stage.name)
    ]
    return {
        "name": stage.name,
        "setting": stage.setting,
        "unit": stage.unit,
        "load": stage.load,
        "running": journal.base.get(stage.setting),
        "points": points,
        "knee": asdict(knee)
        | {
            "share_percent": knee.share_percent,
            "certainty": certainty(knee),
            "about_larger": _about_larger(knee),
        },
    }


def _point(
    measured: list[Measurement], size: int, stage: Stage, series: Sequence[Series]
) -> dict[str, Any]:
    spans = [(one.started, one.ended) for one in measured]
    law = at_pooler(series, ENTRIES[stage.load], spans)
    throughput = spread([one.throughput for one in measured])
    return {
        "size": size,
        "runs": [one.throughput for one in measured],
        "throughput": throughput.as_dict(),
        "p95_ms": spread([one.p95_ms or 0.0 for one in measured]).as_dict(),
        "mean_ms": mean(one.mean_ms or 0.0 for one in measured),
        "failures": sum(one.failures for one in measured),
        "little": None if law is None else asdict(law),
        # Closed loop without thought: users in the system, by throughput and response time.
        "users_by_law": throughput.median * mean(one.mean_ms or 0.0 for one in measured) / 1000,
    }


def _verified(journal: Journal, load: str) -> dict[str, Any] | None:
    """Return how the recommendation did beside the best; without figures, why there are none."""
    name = f"{VERIFY} {load}"
    measured, other = journal.of(name, RECOMMENDED), journal.of(name, BEST)
    sweeps = [one for stage in STAGES if stage.load == load for one in _means(journal, stage)]
    if not sweeps:
        return None
    rounds = min(len(measured), len(other))
    failures = sum(one.failures for one in [*measured, *other])
    found = {"load": load, "failures": failures, "best_of_sweeps": max(sweeps)}
    if not is_comparable(journal, load):
        return found | {"not_measured": "the recommendation is itself the best of its sweeps"}
    if rounds < MIN_ROUNDS:
        return found | {"not_measured": f"{rounds} of at least {MIN_ROUNDS} rounds: raise MINUTES"}
    # Both in as many rounds, in turns.
    throughput = spread([one.throughput for one in measured[:rounds]])
    at_best = spread([one.throughput for one in other[:rounds]])
    if not at_best.median:
        return found | {"not_measured": "the best of the sweeps answered nothing"}
    return found | {
        "throughput": throughput.as_dict(),
        "best": at_best.as_dict(),
        "percent_of_best": 100 * throughput.median / at_best.median,
        "not_measured": "",
    }


def _means(journal: Journal, stage: Stage) -> list[float]:
    return [
        mean(one.throughput for one in journal.of(stage.name, size))
        for size in sizes_measured(journal, stage.name)
    ]


@dataclass(frozen=True, slots=True)
class Little:
    """One span at the pooler; busy connections by Little's law (L = X x W) and as sampled.

    Source: J. D. C. Little, "A Proof for the Queuing Formula L = lambda W" (1961). Busy
    connections = transactions per second x time of a transaction; beside it, in a closed loop of
    N users without thought, N = X x R.
    `transaction_ms` is PgBouncer's own figure, from the client's first word: the wait for a
    server connection is part of it, and none of it keeps a connection busy.
    """

    transactions_per_second: float
    transaction_ms: float
    wait_ms: float
    busy_by_law: float
    busy_sampled: float


def at_pooler(
    series: Sequence[Series], entry: str, spans: Sequence[Sequence[float]]
) -> Little | None:
    """Return what the replicas did for a database entry in these spans; None without samples."""
    count = duration = waited = seconds = 0.0
    busy: list[float] = []
    for one in series:
        for span in spans:
            inside = one.between(span[0], span[1]).samples
            samples = [sample for sample in inside if f"{entry}_xacts" in sample]
            if len(samples) < 2:
                continue
            first, last = samples[0], samples[-1]
            count += last[f"{entry}_xacts"] - first[f"{entry}_xacts"]
            duration += last[f"{entry}_xact_us"] - first[f"{entry}_xact_us"]
            waited += last[f"{entry}_wait_us"] - first[f"{entry}_wait_us"]
            seconds += last["t"] - first["t"]
            busy.append(mean(sample.get(f"{entry}_busy", 0.0) for sample in samples))
    if not count or not seconds:
        return None
    # Each replica's span was added up: divide the sums by replicas to get one clock.
    replicas = len(
        {one.label for one in series if any(f"{entry}_xacts" in sample for sample in one.samples)}
    )
    clock = seconds / replicas
    return Little(
        count / clock,
        duration / count / MICROSECONDS * 1000,
        waited / count / MICROSECONDS * 1000,
        (duration - waited) / MICROSECONDS / clock,
        mean(busy) * replicas,
    )
