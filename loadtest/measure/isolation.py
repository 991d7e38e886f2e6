"""Latency of requests with the batch pool idle, full, and at work, in turns; an idle stack first.

Requests go at a fixed rate, each timed from the moment it was due: a closed loop would send less
just when the service is slow, and so not see it (coordinated omission; G. Tene, "How NOT to
Measure Latency").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import typer
import urllib3

from app.client.http import Client
from loadtest import API_URL
from loadtest.api import assessment, finished, sites, status_url, wait_until
from loadtest.database import arguments
from loadtest.figures import Histogram, spread, summary_ms
from loadtest.progress import Steps
from loadtest.run_directory import RunDirectory

# The phases' names, as results and pages have them.
IDLE = "batch idle"
# The pool's promise is about connections. Processors are shared on purpose: the third phase
# is reported, not judged.
JUDGED = "batch connections taken"
COMPUTING = "workers computing"

PROBE_THREADS = 32
TIMEOUT_SECONDS = 15.0
WARM_UP_SECONDS = 2.0
START_SECONDS_MAX = 60.0
# Long enough that every slot is always taken, short enough that none outlives a phase.
HOLD_SECONDS = 0.05
WORK_SITES = 40
DRAIN_SECONDS_MAX = 180.0
# Long enough that the workers' pauses between polls are the longest, and that idle sessions have
# reported their transactions (after 10 s).
SETTLE_SECONDS = 20.0
# Between the end of one assessment and the next submission, so that every thread waits again.
GAP_SECONDS = 0.1
FINISHED_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Length and number of phases, requests per second, and the highest ratio of p99."""

    phase_seconds: float
    repeats: int
    rate: float
    batch_clients: int
    ratio_max: float


@dataclass(slots=True)
class Probed:
    """What the requests of one phase saw; Unix times."""

    started: float
    ended: float = 0.0
    failures: int = 0
    latencies: Histogram = field(default_factory=Histogram)


def run(options: Isolation, directory: RunDirectory) -> int:
    """Probe every phase in turn; 1 when a request failed or the judged ratio is too high."""
    phases: dict[str, Callable[[], AbstractContextManager[None]]] = {
        IDLE: nullcontext,
        JUDGED: lambda: _server_connections_taken(options.batch_clients),
        COMPUTING: _workers_computing,
    }
    prober = _Prober(_target())
    prober.probe(rate=options.rate, seconds=WARM_UP_SECONDS)
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
    result = {name: figures(probed) for name, probed in seen.items()}
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


def figures(probed: list[Probed]) -> dict[str, Any]:
    """Return the repeats of one phase as JSON holds them."""
    everything = Histogram.merged(one.latencies for one in probed)
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
    client = Client(API_URL, time.monotonic() + START_SECONDS_MAX)
    assessment_id = client.submit(assessment(sites(1), years=1))
    finished(client, assessment_id, seconds=START_SECONDS_MAX, every=0.1)
    return status_url(assessment_id)


class _Prober:
    """Sends GETs for one URL; one for all phases, so that its connections are warm."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(
            maxsize=PROBE_THREADS, retries=False, timeout=TIMEOUT_SECONDS
        )
        self._lock = threading.Lock()

    def probe(self, *, rate: float, seconds: float) -> Probed:
        """Send `rate` requests per second for `seconds`; return when all are answered."""
        probed = Probed(time.time())
        begin = time.monotonic()
        with ThreadPoolExecutor(PROBE_THREADS) as threads:
            for number in range(int(rate * seconds)):
                due = begin + number / rate
                time.sleep(max(0.0, due - time.monotonic()))
                threads.submit(self._one, due, probed)
        probed.ended = time.time()
        return probed

    def _one(self, due: float, probed: Probed) -> None:
        try:
            passed = self._http.request("GET", self._url).status == 200
        except urllib3.exceptions.HTTPError:
            passed = False
        seconds = time.monotonic() - due
        with self._lock:
            probed.latencies.add(seconds)
            probed.failures += not passed


@contextmanager
def _server_connections_taken(clients: int) -> Iterator[None]:
    """Hold every server connection of risk_batch with `clients` clients that do nothing in it.

    The pool is full and the processors are idle: what is seen is the queue alone.
    """
    stop = threading.Event()
    with ExitStack() as connections:
        threads = []
        for _ in range(clients):
            connection = psycopg.connect(**arguments("pgbouncer"), autocommit=True)
            connections.callback(connection.close)
            threads.append(threading.Thread(target=_hold, args=(connection, stop)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _hold(connection: psycopg.Connection[Any], stop: threading.Event) -> None:
    while not stop.is_set():
        connection.execute("SELECT pg_sleep(%s)", (HOLD_SECONDS,))


@contextmanager
def _workers_computing() -> Iterator[None]:
    """Keep every worker thread busy with a large assessment; leave when it has ended."""
    client = Client(API_URL, time.monotonic() + DRAIN_SECONDS_MAX)
    assessment_id = client.submit(assessment(sites(WORK_SITES)))
    wait_until(
        lambda: None if client.status(assessment_id)["status"] == "queued" else True,
        seconds=DRAIN_SECONDS_MAX,
        what="a worker takes the assessment",
        every=0.05,
    )
    try:
        yield
    finally:
        finished(client, assessment_id, seconds=DRAIN_SECONDS_MAX, every=0.5)


def idle(directory: RunDirectory, *, submissions: int, idle_seconds: float) -> None:
    """Write milliseconds from `created_at` to `started_at`, and transactions a second while idle.

    Both times are the database's. The transactions are all of the server's, those of health checks
    and of this connection included.
    """
    starts = Histogram.of(_started_after() for _ in range(submissions))
    with psycopg.connect(**arguments("pgbouncer"), autocommit=True) as connection:
        time.sleep(SETTLE_SECONDS)
        before, began = _transactions(connection), time.monotonic()
        time.sleep(idle_seconds)
        seconds = time.monotonic() - began
        per_second = (_transactions(connection) - before) / seconds
    directory.write("idle", {"start": summary_ms(starts), "transactions_per_second": per_second})


def _started_after() -> float:
    """Submit one task; return the seconds that it waited."""
    client = Client(API_URL, time.monotonic() + FINISHED_SECONDS_MAX)
    assessment_id = client.submit(assessment(sites(1), years=1, scenarios=["SSP126"]))
    status = finished(client, assessment_id, seconds=FINISHED_SECONDS_MAX, every=GAP_SECONDS)
    times = (datetime.fromisoformat(status[name]) for name in ("created_at", "started_at"))
    created, started = times
    time.sleep(GAP_SECONDS)
    return (started - created).total_seconds()


def _transactions(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database"
    ).fetchone()
    return int(row[0]) if row else 0
