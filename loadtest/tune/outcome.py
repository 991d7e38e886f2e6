"""What a finished sweep comes to: a knee per stage, an env file with reasons, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from loadtest.run_directory import RunDirectory
from loadtest.samples import Series
from loadtest.spread import spread
from loadtest.tune import little
from loadtest.tune.journal import Journal, Measurement, sizes_measured
from loadtest.tune.knee import Knee
from loadtest.tune.search import (
    BEST,
    RECOMMENDED,
    VERIFY,
    VERIFY_LOADS,
    recommended,
    sweep,
)
from loadtest.tune.space import STAGES, Knobs, Stage, edit_env

ENTRIES = {"interactive": "risk", "batch": "risk_batch"}
FILE = "recommended.env"


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
    wanted, why = recommended(journal), reasons(journal)
    # What stays as it is has a reason too, now that it is measured.
    text = edit_env(original, {name: wanted[name] for name in {*_changes(journal), *why}}, why)
    (directory.path / FILE).write_text(text, encoding="utf-8")
    return text


def reasons(journal: Journal) -> dict[str, str]:
    """Return a sentence for every knob that was swept."""
    found = {}
    for stage in STAGES:
        swept = sweep(journal, stage)
        if swept is not None:
            knee = swept.knee()
            found[stage.knob] = _reason(stage, knee, len(swept.repeats[0]))
            found[stage.minimum_knob] = f"at most {stage.knob}."
    return found


def _reason(stage: Stage, knee: Knee, rounds: int) -> str:
    certainty = (
        f"{rounds} rounds, 90 % interval of the knee {knee.low:g}..{knee.high:g}"
        if rounds > 1
        else "one round only, so nothing is known of its certainty: raise MINUTES"
    )
    return (
        f"{knee.at_knee:.0f} {stage.unit}, {knee.share_percent:.0f} % of the best "
        f"({knee.best:.0f} at {knee.best_size}); {certainty}. Larger buys nothing here."
    )


def _changes(journal: Journal) -> Knobs:
    """Return the knobs whose recommended value is not the one in force."""
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
        "knob": stage.knob,
        "unit": stage.unit,
        "load": stage.load,
        "in_force": journal.base.get(stage.knob),
        "points": points,
        "knee": asdict(knee) | {"share_percent": knee.share_percent},
    }


def _point(
    measured: list[Measurement], size: int, stage: Stage, series: Sequence[Series]
) -> dict[str, Any]:
    spans = [(one.started, one.ended) for one in measured]
    at_pooler = little.at_pooler(series, ENTRIES[stage.load], spans)
    throughput = spread([one.throughput for one in measured])
    return {
        "size": size,
        "runs": [one.throughput for one in measured],
        "throughput": throughput.as_dict(),
        "p95_ms": spread([one.p95_ms or 0.0 for one in measured]).as_dict(),
        "mean_ms": mean(one.mean_ms or 0.0 for one in measured),
        "failures": sum(one.failures for one in measured),
        "little": None if at_pooler is None else asdict(at_pooler),
        # Closed loop without thought: users in the system, by throughput and response time.
        "users_by_law": throughput.median * mean(one.mean_ms or 0.0 for one in measured) / 1000,
    }


def _verified(journal: Journal, load: str) -> dict[str, Any] | None:
    name = f"{VERIFY} {load}"
    measured = journal.of(name, RECOMMENDED)
    # Where the recommendation is itself the best of every sweep there is no other to compare.
    other = journal.of(name, BEST) or measured
    sweeps = [one for stage in STAGES if stage.load == load for one in _means(journal, stage)]
    if not measured or not sweeps:
        return None
    throughput = spread([one.throughput for one in measured])
    best = spread([one.throughput for one in other])
    return {
        "load": load,
        "throughput": throughput.as_dict(),
        "best": best.as_dict(),
        "best_of_sweeps": max(sweeps),
        "percent_of_best": 100 * throughput.median / best.median,
        "failures": sum(one.failures for one in [*measured, *other]),
    }


def _means(journal: Journal, stage: Stage) -> list[float]:
    return [
        mean(one.throughput for one in journal.of(stage.name, size))
        for size in sizes_measured(journal, stage.name)
    ]
