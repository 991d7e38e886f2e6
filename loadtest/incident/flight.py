"""One site assessed one way: eight threads, every task a future, every exception counted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from app.risk import AssetTerms
from loadtest.histogram import summary_ms
from loadtest.incident.pattern import Row, Task, run_task
from loadtest.incident.ways import Tally, Way

THREADS = 8
TERMS = AssetTerms(asset_value=1e9, insurance_coverage_rate=0.3)
REPORT_SECONDS = 5.0


class OverError(Exception):
    """The time is over."""


@dataclass(slots=True)
class Flight:
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


def fly(way: Way, tasks: Iterable[Task], *, seconds_max: float, label: str) -> Flight:
    """Run the tasks for at most `seconds_max`; exceptions are counted, not raised."""
    todo = list(tasks)
    flight = Flight(len(todo), time.time())
    until = time.monotonic() + seconds_max
    lock = threading.Lock()

    def one(task: Task) -> bool:
        tally = Tally()

        def operation(statement: str, parameters: Mapping[str, Any]) -> Row | None:
            if time.monotonic() > until:
                raise OverError
            return way.operation(tally, statement, parameters)

        try:
            run_task(task, TERMS, operation)
        except OverError:
            return False
        finally:
            way.task_ended()
            with lock:
                flight.tally.merge(tally)
        return True

    with ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(one, task) for task in todo]
        _watch(futures, label)
    flight.ended = time.time()
    for future in futures:
        _account(flight, future)
    return flight


def _account(flight: Flight, future: Future[bool]) -> None:
    """In the incident nobody asked the future; here every one is."""
    if future.exception() is not None:
        flight.lost += 1
    elif future.result():
        flight.done += 1
    else:
        flight.unfinished += 1


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
