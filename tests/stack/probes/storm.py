"""Runs reads and transactions without a pause and reports what callers saw, as JSON.

    python -m tests.stack.probes.storm

Start it, inject a fault from outside, and judge the report: a caller may see only
DatabaseUnavailable and its subclasses, `worst_overrun_seconds` stays below 0.5, and
`last_failure_at_seconds` tells when the path had recovered. It needs no table.

Environment: SLUICE_SETTINGS (/etc/sluice/api.json), PROBE_SECONDS (20), PROBE_THREADS
(16), PROBE_DEADLINE_SECONDS (3).
"""

import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any

from app.pool import DatabasePool, DatabaseUnavailable, Deadline
from tests.stack.probes.settings import load

PAUSE_AFTER_FAILURE_SECONDS = 0.02  # a caller that got 503 does not spin


class Storm:
    """Threads that call the pool until the time is over."""

    def __init__(self, pool: DatabasePool, seconds: float, deadline_seconds: float) -> None:
        self._pool = pool
        self._started = monotonic()
        self._ends = self._started + seconds
        self._deadline_seconds = deadline_seconds
        self._lock = Lock()
        self.outcomes: Counter[str] = Counter()
        self.forbidden: list[str] = []
        self.worst_overrun = float("-inf")
        self.slowest = 0.0
        self.last_failure_at: float | None = None

    def work(self, number: int) -> None:
        """Call until the end; every other thread reads, the rest commit transactions."""
        while monotonic() < self._ends:
            deadline = Deadline.after(self._deadline_seconds)
            outcome = self._call(deadline, read_only=number % 2 == 0)
            self._note(outcome, deadline)
            if outcome != "ok":
                sleep(PAUSE_AFTER_FAILURE_SECONDS)

    def report(self) -> dict[str, Any]:
        """Return what happened, in seconds since the start where it is a time."""
        return {
            "outcomes": dict(self.outcomes),
            "forbidden": self.forbidden[:5],
            "worst_overrun_seconds": round(self.worst_overrun, 3),
            "slowest_seconds": round(self.slowest, 3),
            "last_failure_at_seconds": self.last_failure_at,
            "state": asdict(self._pool.state()),
        }

    def _call(self, deadline: Deadline, *, read_only: bool) -> str:
        try:
            self._pool.run(
                lambda connection: connection.execute("SELECT 1").fetchone(),
                deadline=deadline,
                name="storm",
                read_only=read_only,
                idempotent=True,
            )
        except DatabaseUnavailable as error:
            return type(error).__name__
        except Exception as error:
            self.forbidden.append(repr(error))
            return "forbidden"
        return "ok"

    def _note(self, outcome: str, deadline: Deadline) -> None:
        now = monotonic()
        with self._lock:
            self.outcomes[outcome] += 1
            self.worst_overrun = max(self.worst_overrun, now - deadline.at)
            self.slowest = max(self.slowest, now - deadline.at + self._deadline_seconds)
            if outcome != "ok":
                self.last_failure_at = round(now - self._started, 3)


def main() -> int:
    """Run the storm; the exit status is 1 when a deadline or an error class was broken."""
    connection, settings = load()
    pool = DatabasePool(connection, settings, name="storm")
    pool.open(deadline=Deadline.after(30.0))
    storm = Storm(pool, _number("PROBE_SECONDS", 20), _number("PROBE_DEADLINE_SECONDS", 3))
    count = int(_number("PROBE_THREADS", 16))
    threads = [Thread(target=storm.work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(storm.report()) + "\n")
    pool.close(5.0)
    return 1 if storm.forbidden or storm.worst_overrun > 0.5 else 0


def _number(name: str, default: float) -> float:
    return float(os.environ.get(name, default))


if __name__ == "__main__":
    sys.exit(main())
