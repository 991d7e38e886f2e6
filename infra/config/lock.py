"""One at a time: the lock of all that compiles, or changes what runs.

The kernel releases it when its holder dies, however it dies.
"""

import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCK_FILE_NAME: Final = "operation.lock"
# An operation whose caller was killed puts back what it has begun; the next one takes over.
GRACE_SECONDS = 5.0
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock: the command, its container and process, and since when (UTC)."""

    what: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.what} in container {self.host} (process {self.pid}) since {self.since}"


class LockHeldError(Exception):
    """Another operation is under way; the message says which and since when."""

    def __init__(self, holder: Holder | None) -> None:
        self.holder = holder
        known = str(holder) if holder else "an operation that has not said its name"
        super().__init__(f"refused: {known} is under way; wait for it")


@contextmanager
def operation_lock(directory: Path, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of all operations that change something, for the length of the block.

    `directory` is that of the compiled operator files, on the volume that every operator
    command shares. With `wait_seconds` a held lock is waited for that long.

    Raises:
        LockHeldError: another operation holds it.
        OSError: the directory cannot be written.

    """
    descriptor = os.open(directory / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + max(wait_seconds, GRACE_SECONDS)
        while not try_lock(descriptor):
            if time.monotonic() > until:
                raise LockHeldError(_signature(descriptor))
            time.sleep(_POLL_SECONDS)
        _sign(descriptor, what)
        yield
    finally:
        # Closing releases it; the file stays, or a waiter would lock one that is gone.
        os.close(descriptor)


def holder(directory: Path) -> Holder | None:
    """Return who holds the lock now; None when nobody does."""
    try:
        descriptor = os.open(directory / LOCK_FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if try_lock(descriptor) else _signature(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the kernel's exclusive lock on an open file; return False if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int, what: str) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = {"what": what, "host": socket.gethostname(), "pid": os.getpid(), "since": now}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(text).encode(), 0)


def _signature(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None
