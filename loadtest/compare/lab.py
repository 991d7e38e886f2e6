"""What runs in the lab: a site in every way in turn, then N processes with a pool each.

A site is done by eight threads, every task a future, every exception counted.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from app.client.sample import SITES
from app.risk.types import YEARS
from loadtest.compare.pattern import (
    TERMS,
    Row,
    Rows,
    Task,
    digest,
    read_task,
    rows_from_tables,
    run_task,
    tasks,
)
from loadtest.compare.ways import WAYS, PooledStatement, Tally, Way
from loadtest.database import arguments
from loadtest.figures import Histogram, summary_ms
from loadtest.run_directory import RunDirectory

THREADS = 8
REPORT_SECONDS = 5.0
# The longest of all is a connection per operation: some 300 s for 320 tasks on two cores.
SITE_SECONDS_MAX = 1800.0
START_SECONDS = 3.0
# Backends of the last connections take a moment to end; the next run must not meet them.
SETTLE_SECONDS = 2.0
NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much to compare: `site_years` of 80 years, N processes, seconds each."""

    site_years: int
    failure_seconds: float
    process_counts: tuple[int, ...]
    process_seconds: float


def run(comparison: Comparison, directory: RunDirectory) -> int:
    """Run every way and store each result at once; 1 when two ways disagree."""
    cell_id = _cell()
    found: dict[str, Any] = {"site": SITES[0][0], "site_years": comparison.site_years, "ways": {}}
    digests: dict[str, str] = {}
    for name in ("pool_pgbouncer", "pool_direct", "as_it_was", "per_operation"):
        limit = comparison.failure_seconds if name == "as_it_was" else SITE_SECONDS_MAX
        found["ways"][name], rows = _one(name, cell_id, comparison.site_years, limit)
        if name != "as_it_was":
            digests[name] = digest(rows)
            directory.write(f"rows-{name}", rows)
        directory.write("compare-lab", found)
    found["digests"] = digests
    found["processes"] = _processes(comparison, cell_id)
    directory.write("compare-lab", found)
    if len(set(digests.values())) != 1:
        sys.stderr.write(f"results differ between the ways: {digests}\n")
        return 1
    return 0


def _one(name: str, cell_id: int, years: int, seconds_max: float) -> tuple[dict[str, Any], Rows]:
    assessment_id = str(uuid.uuid4())
    way = WAYS[name]()
    try:
        site = run_site(
            way, tasks(assessment_id, cell_id, years), seconds_max=seconds_max, label=name
        )
    finally:
        way.close()
    time.sleep(SETTLE_SECONDS)
    return site.as_dict(), rows_from_tables(assessment_id)


def _processes(comparison: Comparison, cell_id: int) -> list[dict[str, Any]]:
    found = []
    for count in comparison.process_counts:
        for target in ("pgbouncer", "direct"):
            result = _measure_processes(target, count, comparison.process_seconds, cell_id)
            sys.stderr.write(
                f"{count} processes, {target}: {result['operations_per_second']:.0f} "
                f"operations/s, {result['failed_operations']} failed\n"
            )
            found.append(result)
            time.sleep(SETTLE_SECONDS)
    return found


def _cell() -> int:
    _, latitude, longitude = SITES[0]
    with psycopg.connect(**arguments("direct")) as connection:
        row = connection.execute(
            "SELECT reference.cell_at(%s, %s)", (latitude, longitude)
        ).fetchone()
    if row is None or row[0] is None:
        raise LookupError("the lab's reference data have no cell for the sample site")
    return int(row[0])


class DeadlineError(Exception):
    """The time of the run is over."""


@dataclass(slots=True)
class SiteRun:
    """How far the tasks of one site came."""

    tasks: int
    started: float
    ended: float = 0.0
    done: int = 0
    lost: int = 0
    unfinished: int = 0
    tally: Tally = field(default_factory=Tally)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON holds them."""
        seconds = self.ended - self.started
        return {
            "tasks": self.tasks,
            "done": self.done,
            "lost": self.lost,
            "unfinished": self.unfinished,
            "started": self.started,
            "ended": self.ended,
            "seconds": seconds,
            "tasks_per_second": self.done / seconds if seconds else None,
            "operations": self.tally.operations,
            "acquisition": summary_ms(self.tally.acquired),
            "histogram": self.tally.acquired.to_json(),
            "errors": dict(self.tally.errors),
            "failed_operations": sum(self.tally.errors.values()),
            "timeouts": self.tally.timeouts,
        }


def run_site(way: Way, tasks: Iterable[Task], *, seconds_max: float, label: str) -> SiteRun:
    """Run the tasks for at most `seconds_max`; exceptions are counted, not raised."""
    todo = list(tasks)
    site = SiteRun(len(todo), time.time())
    until = time.monotonic() + seconds_max
    lock = threading.Lock()

    def one(task: Task) -> bool:
        tally = Tally()

        def operation(statement: str, parameters: Mapping[str, Any]) -> Row | None:
            if time.monotonic() > until:
                raise DeadlineError
            return way.operation(tally, statement, parameters)

        try:
            run_task(task, TERMS, operation)
        except DeadlineError:
            return False
        finally:
            way.task_ended()
            with lock:
                site.tally.merge(tally)
        return True

    with ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(one, task) for task in todo]
        _watch(futures, label)
    site.ended = time.time()
    for future in futures:
        _account(site, future)
    return site


def _account(site: SiteRun, future: Future[bool]) -> None:
    """In the incident nobody asked the future; here every one is."""
    if future.exception() is not None:
        site.lost += 1
    elif future.result():
        site.done += 1
    else:
        site.unfinished += 1


def _watch(futures: list[Future[bool]], label: str) -> None:
    started = time.monotonic()
    waiting: set[Future[bool]] = set(futures)
    while waiting:
        _, waiting = wait(waiting, timeout=REPORT_SECONDS)
        ended = len(futures) - len(waiting)
        elapsed = time.monotonic() - started
        left = elapsed / ended * len(waiting) if ended else float("nan")
        sys.stderr.write(
            f"{label}: {ended}/{len(futures)} tasks ended, {elapsed:.0f} s, {left:.0f} s left\n"
        )
        sys.stderr.flush()


def _measure_processes(target: str, processes: int, seconds: float, cell_id: int) -> dict[str, Any]:
    """Run that many processes with the incident's reads for `seconds`; sum what they did."""
    context = multiprocessing.get_context("spawn")
    begin = time.time() + START_SECONDS + 0.2 * processes
    with context.Pool(processes) as pool:
        jobs = [(target, begin, seconds, cell_id)] * processes
        parts = pool.starmap(_process, jobs, chunksize=1)
    acquired = Histogram.merged(Histogram.from_json(part["histogram"]) for part in parts)
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part["errors"])
    done = sum(part["done"] for part in parts)
    return {
        "target": target,
        "processes": processes,
        "started": begin,
        "ended": time.time(),
        "seconds": seconds,
        "operations_per_second": done / seconds,
        "done": done,
        "failed_operations": sum(errors.values()),
        "timeouts": sum(part["timeouts"] for part in parts),
        "pool_connections": sum(part["connections"] for part in parts),
        "errors": dict(errors),
        "acquisition": summary_ms(acquired),
    }


def _process(target: str, begin: float, seconds: float, cell_id: int) -> dict[str, Any]:
    """One application process: eight threads share one pool until the time is over."""
    tallies = [Tally() for _ in range(THREADS)]
    way = PooledStatement(target, wait=False)
    time.sleep(max(0.0, begin - time.time()))
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_reads, args=(way, tally, until, cell_id)) for tally in tallies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A pool this young has given none back; a sampler has no turn while so many processes run.
    connections = way.connections
    way.close()
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return {
        "done": total.acquired.total,
        "errors": dict(total.errors),
        "timeouts": total.timeouts,
        "histogram": total.acquired.to_json(),
        "connections": connections,
    }


def _reads(way: PooledStatement, tally: Tally, until: float, cell_id: int) -> None:
    def operation(statement: str, parameters: Any) -> Any:
        if time.monotonic() > until:
            raise DeadlineError
        try:
            return way.operation(tally, statement, parameters)
        except psycopg.Error:
            return None  # counted; the next operation tries again

    with suppress(DeadlineError):
        while True:
            for task in tasks(NOBODY, cell_id, years=len(YEARS)):
                read_task(task, operation)
