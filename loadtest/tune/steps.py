"""The steps that host/tune.sh takes in turn: begin, next, measure, skip, finish."""

from __future__ import annotations

import sys
import time

import typer

from infra.config import envfile
from loadtest.measure.traffic import TrafficOptions, parse_mix
from loadtest.progress import clock
from loadtest.run_directory import RunDirectory
from loadtest.tune import journal as journals
from loadtest.tune import outcome
from loadtest.tune.journal import Journal, Measurement, TuneOptions
from loadtest.tune.search import (
    BEST,
    OVERHEAD_SECONDS,
    STAGES,
    VERIFY,
    VERIFY_LOADS,
    Point,
    effective,
    next_point,
    sizes,
)

ORIGINAL = "original/stack.env"
CANDIDATE = "candidate/stack.env"
DONE = "done"
# The api's pool grows to its new size with the first requests.
WARM_UP_SECONDS = 2
BATCH_SITES = 8


def begin(directory: RunDirectory, options: TuneOptions) -> None:
    """Start a journal where there is none yet; a resumed run goes on with its own options."""
    if journals.load(directory) is None:
        base = effective((directory.path / ORIGINAL).read_text(encoding="utf-8"))
        journals.create(directory, options, base)


def show_next(directory: RunDirectory) -> None:
    """Print the next point's name on stdout and write its env file; `done` when there is none."""
    journal = _journal(directory)
    point = next_point(journal)
    if point is None:
        typer.echo(DONE)
        return
    original = (directory.path / ORIGINAL).read_text(encoding="utf-8")
    changes = {
        name: value for name, value in point.settings.items() if journal.base.get(name) != value
    }
    (directory.path / CANDIDATE).write_text(envfile.edit(original, changes), encoding="utf-8")
    sys.stderr.write(f"{_progress(journal)} {_title(point)}\n")
    typer.echo(point.name)


def measure(directory: RunDirectory, began: float) -> None:
    """Measure the point that was applied; `began` is Unix time before it was applied."""
    journal = _journal(directory)
    point = _point(journal)
    measured = _measure(point, journal.options)
    journal.measurements.append(measured)
    journal.spent_seconds += time.time() - began
    journals.store(directory, journal)
    p95 = measured.p95_ms or float("nan")
    sys.stderr.write(
        f"    {measured.throughput:.0f} per second, p95 {p95:.0f} ms, {measured.failures} failed\n"
    )


def skip(directory: RunDirectory, reason: str, began: float) -> None:
    """Leave the next point out: `apply` has refused it."""
    journal = _journal(directory)
    point = _point(journal)
    journal.refuse(point.stage, point.size, reason)
    journal.spent_seconds += time.time() - began
    journals.store(directory, journal)
    sys.stderr.write(f"    left out: {reason}\n")


def finish(directory: RunDirectory) -> int:
    """Write the recommendation; return 1 when a request failed or nothing was measured."""
    journal = _journal(directory)
    if not journal.measurements:
        typer.echo("tune: nothing was measured within the time; raise MINUTES", err=True)
        return 1
    original = (directory.path / ORIGINAL).read_text(encoding="utf-8")
    journal.result = outcome.conclude(journal, directory.samples())
    journal.finished = True
    outcome.write_env(directory, journal, original)
    journals.store(directory, journal)
    for name, reason in outcome.reasons(journal).items():
        typer.echo(
            f"{name}={journal.result['changes'].get(name, journal.base.get(name))}: {reason}"
        )
    for one in journal.result["verified"]:
        typer.echo(
            f"not verified, {one['load']}: {one['not_measured']}"
            if one["not_measured"]
            else f"verified, {one['load']}: {one['percent_of_best']:.1f} % of the best measured"
        )
    return int(journal.failures() > 0)


def _journal(directory: RunDirectory) -> Journal:
    journal = journals.load(directory)
    if journal is None:
        raise FileNotFoundError(f"{directory.path}/tune.json: run `tune-begin` first")
    return journal


def _point(journal: Journal) -> Point:
    point = next_point(journal)
    if point is None:
        raise LookupError("no point is left to measure")
    return point


def _title(point: Point) -> str:
    if point.stage.startswith(VERIFY):
        return f"{point.stage}: {'best of the sweeps' if point.size == BEST else 'recommended'}"
    return f"{point.stage} = {point.size}"


def _progress(journal: Journal) -> str:
    """Return how far the run is, and the time left: what is to do, or what the setting allows."""
    options = journal.options
    swept = sum(len(sizes(journal, stage)) for stage in STAGES) * options.repeats
    total = swept + 2 * len(VERIFY_LOADS) * options.verify
    taken = len(journal.measurements)
    each = journal.spent_seconds / taken if taken else options.point_seconds + OVERHEAD_SECONDS
    left = min(max(total - taken, 1) * each, options.minutes * 60 - journal.spent_seconds)
    return f"[{taken + 1}/{total}, {clock(left)} left]"


def _measure(point: Point, options: TuneOptions) -> Measurement:
    """Return what the running stack does under the point's load."""
    if point.load == "batch":
        return _batch(point)
    return _interactive(point, options)


def _interactive(point: Point, options: TuneOptions) -> Measurement:
    # Imported here: it patches sockets and threads of the whole process.
    from loadtest.measure.engine import run_headless

    traffic = TrafficOptions(
        users=options.users,
        seconds=options.point_seconds + WARM_UP_SECONDS,
        mix=parse_mix(options.mix),
        pause_ms=0.0,
        tasks_each=options.tasks_each,
    )
    result = run_headless(traffic, quiet=True)
    whole = range(WARM_UP_SECONDS, int(traffic.seconds))
    seconds = [one for one in result["seconds"] if one["second"] in whole]
    requests = sum(one["requests"] for one in seconds)
    figures = result["all"]
    return Measurement(
        point.stage,
        point.size,
        requests / len(whole),
        figures["p50_ms"],
        figures["p95_ms"],
        figures["mean_ms"],
        figures["count"],
        figures["failures"],
        result["started"] + WARM_UP_SECONDS,
        result["ended"],
    )


def _batch(point: Point) -> Measurement:
    from loadtest.api import assess

    started = time.time()
    done = assess(BATCH_SITES)
    milliseconds = done["seconds"] * 1000
    return Measurement(
        point.stage,
        point.size,
        done["tasks_per_second"],
        milliseconds,
        milliseconds,
        milliseconds,
        done["tasks"],
        done["failed_tasks"],
        started,
        time.time(),
    )
