"""Signals as exceptions: what a command has begun is put back before it ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class EndedBySignalError(BaseException):
    """The command was told to end; not an Exception, so that no handler takes it for a fault."""


class Ending:
    """Turns the first signal to end into EndedBySignalError, in a `with` block.

    As process 1 of its container a command would otherwise not notice SIGTERM at all.
    Further signals are ignored.
    """

    def __init__(self) -> None:
        self._shielded = False
        self._told = ""

    @contextmanager
    def signals_raise(self) -> Iterator[Self]:
        """Catch signals for the block; use it in the main thread."""
        before = {one: signal.signal(one, self._end) for one in _SIGNALS}
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
