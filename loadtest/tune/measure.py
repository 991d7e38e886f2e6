"""One point under its stated load, once it is in force."""

from __future__ import annotations

import time

from loadtest.traffic.options import TrafficOptions, parse_mix
from loadtest.tune.journal import Measurement, TuneOptions
from loadtest.tune.search import Point

# The api's pool grows to its new size with the first requests.
WARM_UP_SECONDS = 2
BATCH_SITES = 8
YEARS = 80


def measure(point: Point, options: TuneOptions) -> Measurement:
    """Return what the running stack does under the point's load."""
    if point.load == "batch":
        return _batch(point)
    return _interactive(point, options)


def _interactive(point: Point, options: TuneOptions) -> Measurement:
    # Imported here: it patches sockets and threads of the whole process.
    from loadtest.traffic.engine import run_headless

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
    from loadtest.incident.stack import assess

    started = time.time()
    done = assess(BATCH_SITES, YEARS)
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
