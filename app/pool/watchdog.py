"""The thread that ends what its deadline did not, and reports what is held too long."""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import Generic, Protocol, TypeVar

SLEEP_MAX_SECONDS = 60.0  # an infinite deadline must not overflow the wait
STALE_MAX = 64  # entries of returned leases in the heap before it is rebuilt
STACK_DEPTH = 12  # innermost frames in a leak report


class Cuttable(Protocol):
    """What the watchdog needs of a connection."""

    def cut(self) -> None:
        """End the connection at once, from any thread, without blocking."""


C = TypeVar("C", bound=Cuttable)


@dataclass(slots=True, eq=False)
class Lease(Generic[C]):
    """One loan of one connection, from arming to disarming; never used twice.

    Times are monotonic seconds. `active` and `cut` change only under the watchdog's
    lock, so a connection that was returned, and perhaps lent again, is not cut for
    the deadline of an earlier loan.
    """

    connection: C
    deadline_at: float
    leak_at: float
    name: str
    borrowed_at: float
    thread_id: int = field(default_factory=threading.get_ident)
    active: bool = False
    cut: bool = False
    leaked: bool = False
    committing: bool = False

    def due(self) -> float:
        """Return when the watchdog next has to look at this loan."""
        if self.leaked or self.deadline_at < self.leak_at:
            return self.deadline_at
        return self.leak_at


@dataclass(frozen=True, slots=True)
class LeakReport:
    """A loan held longer than the threshold, and where its borrower was by then."""

    name: str
    held_seconds: float
    thread: str
    stack: str


class Watchdog(Generic[C]):
    """One thread with a heap of due times; it sleeps until the earliest.

    Arming costs a heap push, O(log n) in the loans that are out: entries of returned
    loans stay until they come due or outnumber the live ones. The thread is woken
    only when a new loan is due before everything it knows.
    """

    def __init__(self, name: str, *, on_leak: Callable[[LeakReport], None]) -> None:
        self._name = name
        self._on_leak = on_leak
        # Taken directly on the way of every loan: the condition's own methods cost more.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._heap: list[tuple[float, int, Lease[C]]] = []
        self._serial = itertools.count()
        self._wake_at = float("inf")
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.active = 0
        self.cuts = 0
        self.leaks = 0

    def start(self) -> None:
        """Start the thread; calling again changes nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(
                target=self._watch, name=f"{self._name}-watchdog", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Let the thread end once every loan is back; until then deadlines still hold."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def arm(self, lease: Lease[C]) -> None:
        """Watch a loan from now on."""
        due = lease.due()
        with self._lock:
            lease.active = True
            self.active += 1
            heappush(self._heap, (due, next(self._serial), lease))
            if due < self._wake_at:
                self._changed.notify_all()

    def disarm(self, lease: Lease[C]) -> bool:
        """Stop watching a loan; return True if its connection was cut. Calls may repeat."""
        with self._lock:
            if lease.active:
                lease.active = False
                self.active -= 1
                if len(self._heap) > STALE_MAX + 2 * self.active:
                    self._heap = [entry for entry in self._heap if entry[2].active]
                    heapify(self._heap)
                if self._stopping and not self.active:
                    self._changed.notify_all()
            return lease.cut

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no loan is out; False when `seconds` passed first."""
        with self._changed:
            self._stopping = True
            return self._changed.wait_for(lambda: not self.active, timeout=seconds)

    def _watch(self) -> None:
        while True:
            with self._changed:
                reports = self._look(monotonic())
                if not reports:
                    if self._stopping and not self.active:
                        return
                    self._sleep()
            for report in reports:
                self._on_leak(report)

    def _sleep(self) -> None:
        due = self._heap[0][0] if self._heap else float("inf")
        self._wake_at = due
        self._changed.wait(max(0.0, min(due - monotonic(), SLEEP_MAX_SECONDS)))
        self._wake_at = float("-inf")  # awake: it looks at the heap before it sleeps again

    def _look(self, now: float) -> list[LeakReport]:
        reports = []
        while self._heap and self._heap[0][0] <= now:
            lease = heappop(self._heap)[2]
            if not lease.active:
                continue
            if now >= lease.deadline_at:
                self._cut(lease)
            else:
                reports.append(self._report(lease, now))
                heappush(self._heap, (lease.due(), next(self._serial), lease))
        return reports

    def _cut(self, lease: Lease[C]) -> None:
        lease.cut = True
        self.cuts += 1
        lease.connection.cut()

    def _report(self, lease: Lease[C], now: float) -> LeakReport:
        lease.leaked = True
        self.leaks += 1
        return LeakReport(
            name=lease.name,
            held_seconds=now - lease.borrowed_at,
            thread=_thread_name(lease.thread_id),
            stack=_stack(lease.thread_id),
        )


def _thread_name(thread_id: int) -> str:
    names = [thread.name for thread in threading.enumerate() if thread.ident == thread_id]
    return names[0] if names else f"ended thread {thread_id}"


def _stack(thread_id: int) -> str:
    """Return where a thread is now: taking the stack at every loan would cost more than the loan.

    A borrower that holds a connection for seconds is nearly always still inside the
    call that borrowed it, so its present stack names it.
    """
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return ""
    return "".join(traceback.format_stack(frame)[-STACK_DEPTH:])
