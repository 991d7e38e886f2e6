"""poll(2) on one socket, without giving up the interpreter lock.

`select.poll` releases the lock around the call. With a timeout of zero the call
returns in a microsecond, but under load the thread then waits up to milliseconds
for the lock: the p99 of a checkout among four busy threads was twenty times that of
a checkout without the poll.
"""

from __future__ import annotations

import ctypes
import select
from functools import cache

GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | select.POLLRDHUP
"""Events after which nothing can be read from, or written to, the peer."""


class _PollFd(ctypes.Structure):
    """`struct pollfd` of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


@cache
def _poll() -> ctypes._NamedFuncPointer:
    # PyDLL, unlike CDLL, keeps the interpreter lock during the call. No argtypes: each
    # would convert an argument that is a C value already, at a third of the call's cost.
    return ctypes.PyDLL(None).poll


class SocketPoll:
    """The pending events of one descriptor; one thread at a time."""

    __slots__ = ("_arguments", "_call", "_entry")

    def __init__(self, descriptor: int) -> None:
        self._entry = _PollFd(descriptor, select.POLLIN | select.POLLRDHUP, 0)
        self._arguments = (ctypes.byref(self._entry), ctypes.c_ulong(1), ctypes.c_int(0))
        self._call = _poll()

    def events(self) -> int:
        """Return the events pending now: 0 for an open socket with nothing to read.

        A poll that fails (no memory) counts as an error of the socket: a connection
        too many is replaced, never a dead one lent.
        """
        found = self._call(*self._arguments)
        if found == 0:
            return 0
        return int(self._entry.revents) if found > 0 else select.POLLERR
