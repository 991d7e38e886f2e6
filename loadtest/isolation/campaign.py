"""Interactive latency with the batch pool idle, full, and at work, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import typer

from app.client.http import Client
from loadtest.histogram import Histogram, summary_ms
from loadtest.isolation import saturation
from loadtest.isolation.names import COMPUTING, IDLE, JUDGED
from loadtest.isolation.probe import Probed, Prober
from loadtest.progress import Steps
from loadtest.run_directory import RunDirectory
from loadtest.spread import spread

PATH = "/api/v1/site-assessments"
START_SECONDS_MAX = 60.0
Phase = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Length and number of phases, requests per second, and the highest ratio of p99."""

    phase_seconds: float = 8.0
    repeats: int = 3
    rate: float = 40.0
    batch_clients: int = 48
    ratio_max: float = 2.0


def run(options: Isolation, directory: RunDirectory) -> int:
    """Probe every phase in turn; 1 when a request failed or the judged ratio is too high."""
    phases: dict[str, Phase] = {
        IDLE: saturation.nothing,
        JUDGED: lambda: saturation.server_connections(options.batch_clients),
        COMPUTING: saturation.working,
    }
    prober = Prober(_target())
    prober.probe(rate=options.rate, seconds=2)
    seen: dict[str, list[Probed]] = {name: [] for name in phases}
    with Steps("isolation", options.repeats * len(phases) * options.phase_seconds) as steps:
        for _ in range(options.repeats):
            for name, phase in phases.items():
                steps.begin(name)
                with phase():
                    probed = prober.probe(rate=options.rate, seconds=options.phase_seconds)
                seen[name].append(probed)
                p99 = probed.latencies.percentile(99) * 1000
                steps.end(f"{name}: p99 {p99:.1f} ms", options.phase_seconds)
    result = {name: _figures(probed) for name, probed in seen.items()}
    found = faults(result, options.ratio_max)
    directory.write("isolation", {"options": asdict(options), "phases": result, "faults": found})
    for fault in found:
        typer.echo(f"isolation: {fault}", err=True)
    return int(bool(found))


def faults(phases: dict[str, dict[str, Any]], ratio_max: float) -> list[str]:
    """Return what does not hold, one sentence each."""
    found = [
        f"{phase['failures']} requests failed while: {name}"
        for name, phase in phases.items()
        if phase["failures"]
    ]
    idle, busy = phases[IDLE]["all"]["p99_ms"], phases[JUDGED]["all"]["p99_ms"]
    if busy > ratio_max * idle:
        found.append(
            f"p99 is {busy:.1f} ms with the batch pool full, {busy / idle:.2f} times the "
            f"{idle:.1f} ms without; MAX_RATIO={ratio_max:g}"
        )
    return found


def _figures(probed: list[Probed]) -> dict[str, Any]:
    everything = Histogram()
    for one in probed:
        everything.merge(one.latencies)
    return {
        "all": summary_ms(everything),
        "histogram": everything.to_json(),
        "failures": sum(one.failures for one in probed),
        "p99_ms": spread([one.latencies.percentile(99) * 1000 for one in probed]).as_dict(),
        "p50_ms": spread([one.latencies.percentile(50) * 1000 for one in probed]).as_dict(),
        "spans": [[one.started, one.ended] for one in probed],
    }


def _target() -> str:
    """Return the URL of a finished small assessment's status: one indexed read."""
    client = Client(saturation.API, time.monotonic() + START_SECONDS_MAX)
    assessment_id = client.submit(saturation.assessment(sites=1, years=1))
    while client.status(assessment_id)["finished_at"] is None:
        time.sleep(0.1)
    return f"{saturation.API}{PATH}/{assessment_id}"
