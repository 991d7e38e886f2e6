"""Signals as exceptions: what a command has begun is put back before it ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Set by whoever holds the other end of standard input for as long as it lives.
LIFELINE = "SLUICE_LIFELINE"


class EndedBySignalError(BaseException):
    """The command was told to end; not an Exception, so that no handler takes it for a fault."""


class Ending:
    """Turns the first signal to end into EndedBySignalError, in a `with` block.

    As process 1 of its container a command would otherwise not notice SIGTERM at all. A caller
    that was killed sends none: where it gave a lifeline, the end of standard input is a SIGHUP.
    Further signals are ignored.
    """

    def __init__(self) -> None:
        self._shielded = False
        self._told = ""

    @contextmanager
    def signals_raise(self) -> Iterator[Self]:
        """Catch signals for the block; use it in the main thread."""
        before = {one: signal.signal(one, self._end) for one in _SIGNALS}
        if os.environ.get(LIFELINE):
            threading.Thread(target=_watch_caller, name="lifeline", daemon=True).start()
        try:
            yield self
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let the block finish first: a signal meanwhile is raised at its end."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._told:
            self._raise()

    def _end(self, number: int, _: FrameType | None) -> None:
        first, self._told = not self._told, signal.Signals(number).name
        if first and not self._shielded:
            self._raise()

    def _raise(self) -> None:
        raise EndedBySignalError(self._told)


def _watch_caller() -> None:
    """Have the main thread end when the caller has; nothing is ever sent."""
    while os.read(0, 1):
        pass
    # To that thread by name: another one would not be woken from what it waits for.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
