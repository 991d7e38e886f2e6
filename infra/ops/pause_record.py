"""The record of a planned pause, and the two locks by which its two keepers see each other die.

The operator's command holds `pause.lock` for as long as it holds the pause; the dead-man
holds `dead-man.lock` for as long as it watches. The kernel releases a lock when its
holder dies, however it dies, so neither has to trust the other's word.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.config.lock import try_lock
from infra.ops.outcome import RefusedError
from infra.ops.waiting import wait_until

PAUSE_LOCK = "pause.lock"
DEAD_MAN_LOCK = "dead-man.lock"
_POLL_SECONDS = 0.1
# A dead-man's container takes a second or two to come up on a busy host.
_DEAD_MAN_STARTS_SECONDS = 15.0
# The lock is held for an instant by whoever looks, and by a dead-man that is resuming.
_LOCK_SECONDS = 5.0


class Phase(StrEnum):
    """Where the operation is: `paused` from before the first PAUSE until all is as before."""

    PAUSED = "paused"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """What the operator wrote last; `at` is the host's monotonic clock in seconds."""

    phase: Phase
    at: float


class NoDeadManError(RefusedError):
    """Nobody watches: a pause would outlive an operator's command that dies."""


class Held:
    """The record while it is held; without `over` the dead-man takes the pause for orphaned."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def over(self) -> None:
        """Note that every replica serves again."""
        _write(self._descriptor, Phase.OVER)


@contextmanager
def pause_record(directory: Path) -> Iterator[Held]:
    """Hold the record of a pause for the block; begin only while a dead-man watches.

    Raises:
        NoDeadManError: no dead-man has come up.
        RefusedError: another command holds a pause.

    """
    descriptor = _open(directory / PAUSE_LOCK)
    try:
        _acquire(descriptor)
        _await_dead_man(directory)
        _write(descriptor, Phase.PAUSED)
        yield Held(descriptor)
    finally:
        os.close(descriptor)


def operation_over(directory: Path) -> None:
    """Tell the dead-man that no pause will follow; one that is not over is left to it."""
    with orphaned(directory) as (record, free):
        if free and (record is None or record.phase is Phase.OVER):
            mark_over(directory)


@contextmanager
def watching(directory: Path) -> Iterator[None]:
    """Show that a dead-man watches for the length of the block; several may."""
    descriptor = _open(directory / DEAD_MAN_LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def orphaned(directory: Path) -> Iterator[tuple[PauseRecord | None, bool]]:
    """Give the record, and whether nobody holds it; nobody can take it during the block."""
    descriptor = _open(directory / PAUSE_LOCK)
    try:
        free = try_lock(descriptor)
        yield _read(descriptor), free
    finally:
        os.close(descriptor)


def read(directory: Path) -> PauseRecord | None:
    """Return the record as it is now, whoever holds it."""
    descriptor = _open(directory / PAUSE_LOCK)
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def mark_over(directory: Path) -> None:
    """Note that the pause is over, in the place of an operator that cannot."""
    descriptor = _open(directory / PAUSE_LOCK)
    try:
        _write(descriptor, Phase.OVER)
    finally:
        os.close(descriptor)


def _await_dead_man(directory: Path) -> None:
    seconds = _DEAD_MAN_STARTS_SECONDS
    if not wait_until(lambda: _dead_man_watches(directory), seconds=seconds, every=_POLL_SECONDS):
        raise NoDeadManError(
            f"no dead-man has come up within {seconds:g} s; "
            "run this as `make restart-postgres`, which starts it"
        )


def _dead_man_watches(directory: Path) -> bool:
    descriptor = _open(directory / DEAD_MAN_LOCK)
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _acquire(descriptor: int) -> None:
    if not wait_until(lambda: try_lock(descriptor), seconds=_LOCK_SECONDS, every=_POLL_SECONDS):
        raise RefusedError("another command holds a pause, or a dead-man is ending one")


def _write(descriptor: int, phase: Phase) -> None:
    text = json.dumps({"phase": phase, "at": time.monotonic()}).encode()
    # One write of one length: a reader never meets half of it.
    os.pwrite(descriptor, text.ljust(80), 0)


def _read(descriptor: int) -> PauseRecord | None:
    try:
        document = json.loads(os.pread(descriptor, 4096, 0))
        return PauseRecord(Phase(document["phase"]), float(document["at"]))
    except (ValueError, TypeError, KeyError):
        return None
