"""N application processes at once, each with a pool of its own: what one pool cannot see."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import psycopg

from loadtest.histogram import Histogram, summary_ms
from loadtest.incident.flight import THREADS, OverError
from loadtest.incident.pattern import read_task, tasks
from loadtest.incident.ways import PooledStatement, Tally

START_SECONDS = 3.0
NOBODY = "00000000-0000-0000-0000-000000000000"


def measure(target: str, processes: int, seconds: float, cell_id: int) -> dict[str, Any]:
    """Run that many processes with the incident's reads for `seconds`; sum what they did."""
    context = multiprocessing.get_context("spawn")
    begin = time.time() + START_SECONDS + 0.2 * processes
    with context.Pool(processes) as pool:
        jobs = [(target, begin, seconds, cell_id)] * processes
        parts = pool.starmap(_process, jobs, chunksize=1)
    acquired = Histogram()
    errors: Counter[str] = Counter()
    for part in parts:
        acquired.merge(Histogram.from_json(part["histogram"]))
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
    way.close()
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return {
        "done": total.acquired.total,
        "errors": dict(total.errors),
        "timeouts": total.timeouts,
        "histogram": total.acquired.to_json(),
    }


def _reads(way: PooledStatement, tally: Tally, until: float, cell_id: int) -> None:
    def operation(statement: str, parameters: Any) -> Any:
        if time.monotonic() > until:
            raise OverError
        try:
            return way.operation(tally, statement, parameters)
        except psycopg.Error:
            return None  # counted; the next operation tries again

    with suppress(OverError):
        while True:
            for task in tasks(NOBODY, cell_id, years=80):
                read_task(task, operation)
