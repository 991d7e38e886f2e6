"""What every application of this directory does, and the record that it keeps of it.

WORKERS workers each commit transaction after transaction, two statements each, and read back
between them, until the file `stop` is there. The end is one line of JSON:

    attempted  transactions of each worker, whose numbers go from 0
    absent     [worker, number] of those that failed before their COMMIT
    unknown    [worker, number] of those whose COMMIT failed
    errors     what the driver raised: when (seconds since the epoch), in which phase, and what

Every other transaction was committed, as the driver says. The applications in other languages
do and print the same.
"""

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WORKERS = 8
# Between two transactions of a worker, at most: an application has something else to do as well.
PAUSE_SECONDS = 1.0
SECONDS_MAX = 300.0
STOP = "/run/secrets/stop"


@dataclass
class Attempt:
    """A transaction; `phase` is how far it has come: begin, commit, then read."""

    worker: int
    number: int
    phase: str = "begin"


class Ledger:
    """What the workers have done."""

    def __init__(self) -> None:
        self._ends = time.monotonic() + SECONDS_MAX
        self._attempted = [0] * WORKERS
        self._failed: dict[str, list[tuple[int, int]]] = {"begin": [], "commit": [], "read": []}
        self._errors: list[dict[str, object]] = []

    def goes_on(self) -> bool:
        """Return whether there is more to do."""
        return time.monotonic() < self._ends and not os.path.exists(STOP)

    def pause(self) -> float:
        """Return for how many seconds a worker does something else."""
        return random.uniform(0, PAUSE_SECONDS)  # noqa: S311  # no secret

    @contextmanager
    def attempt(self, worker: int) -> Iterator[Attempt]:
        """Count a transaction of a worker; an error in the block is recorded, not raised."""
        one = Attempt(worker, self._attempted[worker])
        self._attempted[worker] += 1
        try:
            yield one
        except Exception as error:
            self._failed[one.phase].append((worker, one.number))
            kind = f"{type(error).__name__}: {error}".splitlines()[0]
            self._errors.append({"at": time.time(), "phase": one.phase, "kind": kind})

    def check(self, attempt: Attempt, entries: int) -> None:
        """Compare a worker's total, read after its COMMIT, with what it has committed."""
        absent, unknown = (
            sum(worker == attempt.worker for worker, _ in self._failed[phase])
            for phase in ("begin", "commit")
        )
        most = attempt.number + 1 - absent
        if not most - unknown <= entries <= most:
            raise ValueError(f"read {entries} entries after {most}, of which {unknown} unknown")

    def show(self) -> None:
        """Print the record."""
        record = {
            "attempted": self._attempted,
            "absent": self._failed["begin"],
            "unknown": self._failed["commit"],
            "errors": self._errors,
        }
        print(json.dumps(record))
