"""The record of a measurement above a setting: what it says, and for how long it counts.

`# Measured at 8 on 2026-11-23, 2 cores, 23.5 GiB: 240 requests/s, ...`; `make tune` writes it.
"""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass
from pathlib import Path

# Data, versions and load drift on an unchanged machine; half a year spans a release or two.
MAX_AGE_DAYS = 180
# A kernel update moves the total that Linux reports by a little; another machine by more.
MEMORY_TOLERANCE = 0.05
# How a comment begins that records what was measured; one that only was tried does not count.
MEASURED = "# Measured at "
TRIED = "# Tried at "
RECORDS = (MEASURED, TRIED)
_FORM = re.compile(
    MEASURED + r"(?P<value>\S+) on (?P<date>\d{4}-\d\d-\d\d), (?P<cores>\d+) cores, "
    r"(?P<memory>\d+(\.\d+)?) GiB: .*\d"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measurement depends on: processors and memory in GiB, of the host."""

    cores: int
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Mark:
    """One record: the value that was measured, when, and where."""

    value: str
    date: datetime.date
    machine: Machine


def parse(comment: str) -> Mark | None:
    """Return the record that a comment line holds; None when it is none, or not whole."""
    found = _FORM.match(comment)
    if found is None:
        return None
    try:
        date = datetime.date.fromisoformat(found["date"])
    except ValueError:
        return None
    return Mark(found["value"], date, Machine(int(found["cores"]), float(found["memory"])))


def this_machine() -> Machine:
    """Return the host's processors and memory, which a container sees undivided."""
    kilobytes = int(Path("/proc/meminfo").read_text("ascii").split(maxsplit=2)[1])
    return Machine(os.cpu_count() or 1, kilobytes / 2**20)


def why_void(mark: Mark, value: str, machine: Machine, today: datetime.date) -> str:
    """Return why the record does not count for this value, here and today; empty if it does."""
    if mark.value != value:
        return f"the measurement on record is of {mark.value}"
    there = mark.machine
    if there.cores != machine.cores or (
        abs(there.memory_gib - machine.memory_gib) > MEMORY_TOLERANCE * there.memory_gib
    ):
        return (
            f"the measurement on record is of another machine ({there.cores} cores, "
            f"{there.memory_gib:.1f} GiB; here {machine.cores} cores, {machine.memory_gib:.1f} GiB)"
        )
    if not 0 <= (today - mark.date).days <= MAX_AGE_DAYS:
        return f"the measurement on record is of {mark.date}: it counts for {MAX_AGE_DAYS} days"
    return ""
