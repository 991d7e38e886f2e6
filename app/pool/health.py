"""Whether a connection is still good, and any server reached at all, as cheaply as possible.

A connection gets a poll of its socket, and a round trip only in doubt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep

import psycopg
import structlog

from .classification import is_unreachable
from .connection import GONE, PooledConnection
from .metrics import Tally
from .watchdog import Lease, Watchdog

log = structlog.get_logger(__name__)

CHECK_MIN_SECONDS = 0.1  # less would cut good connections for a caller in a hurry
SWEEP_SECONDS = 1.0  # the longest one connection may keep a sweep waiting
SWEEP_NAME = "pool-check"
PROBE_NAME = "pool-probe"
PROBE_PAUSE_SECONDS = 0.25  # with PgBouncer's one login a second, what a recovery takes longer


class Outage:
    """Knows whether any server is reached, from what went wrong and right since.

    From the first failure on the pool probes by itself, until something is reached or `probe`
    returns False. Failures that have gone on for `after_seconds` are an outage: callers have
    nothing to wait for.
    """

    def __init__(
        self,
        *,
        after_seconds: float,
        probe: Callable[[], bool],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._after_seconds = after_seconds
        self._probe = probe
        self._clock = clock
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self.since: float | None = None
        """When the first failure was noted after which nothing was reached."""
        self.known = False
        """True from when failures have outlasted `after_seconds` until something is reached."""

    def failed(self) -> None:
        """Note that no server was reached."""
        now = self._clock()
        with self._lock:
            self.since = now if self.since is None else self.since
            begins = not self.known and now - self.since >= self._after_seconds
            self.known = self.known or begins
        if begins:
            log.warning("no server is reached; callers are refused at once")
        self.keep_probing()

    def keep_probing(self) -> None:
        """Start the probing thread where none runs; the next caller makes up for a failed start."""
        if not self._probing.locked():
            with suppress(RuntimeError):
                threading.Thread(target=self.probe, name=PROBE_NAME, daemon=True).start()

    def reached(self) -> None:
        """Note that a server answered: callers are served again."""
        with self._lock:
            ended, self.since, self.known = self.known, None, False
        if ended:
            log.info("a server is reached again")

    def probe(self) -> None:
        """Probe until something is reached; returns at once where another thread does."""
        if not self._probing.acquire(blocking=False):
            return
        try:
            while self.since is not None and self._probe():
                sleep(PROBE_PAUSE_SECONDS)
        finally:
            self._probing.release()


class Health:
    """Decides about connections at checkout, and sweeps the pool after a failure.

    A connection gets a full round trip when its socket has something to read, when
    it has been idle for `check_idle_seconds`, or when it last proved itself before
    the latest failure of any connection of the pool.
    """

    def __init__(
        self,
        *,
        check_idle_seconds: float,
        watchdog: Watchdog[PooledConnection],
        tally: Tally,
        outage: Outage,
        sweep_pool: Callable[[Callable[[PooledConnection], None]], None],
    ) -> None:
        self._sweep_pool = sweep_pool
        self._check_idle_seconds = check_idle_seconds
        self._watchdog = watchdog
        self._tally = tally
        self._outage = outage
        self._suspect_since = float("-inf")
        self._sweeping = threading.Lock()
        self._silent = False

    def doubtful(self, connection: PooledConnection) -> bool:
        """Return True if an idle connection needs a closer look before it is lent.

        Costs one poll (a microsecond) and two comparisons: every checkout pays it.
        """
        if connection.events():
            return True
        verified_at = connection.verified_at
        return (
            verified_at <= self._suspect_since
            or verified_at <= monotonic() - self._check_idle_seconds
        )

    def fault(self, connection: PooledConnection, limit_at: float) -> str | None:
        """Return why an idle connection must not be lent, or None when it is good.

        Makes a round trip where there is doubt. `limit_at` is the monotonic time by
        which the caller must have a connection; a round trip takes at most half of
        what is left (but has 0.1 s), so that another can be tried.
        """
        if connection.events() & GONE:
            self.suspect()
            return "closed_by_peer"
        if not self.doubtful(connection):
            return None
        now = monotonic()
        patience = max(CHECK_MIN_SECONDS, (limit_at - now) / 2)
        fault = self.round_trip(connection, now + patience)
        if fault:
            self.suspect()
        else:
            self._tally.asked_at_checkout()
        return fault

    def round_trip(self, connection: PooledConnection, until: float) -> str | None:
        """Ask the server for an empty answer, ended at `until`; return the fault or None."""
        started = monotonic()
        lease = Lease(connection, until, float("inf"), SWEEP_NAME, started)
        self._watchdog.arm(lease)
        try:
            connection.execute("")
        except psycopg.Error as error:
            failed = True
            if is_unreachable(error):
                self._outage.failed()
        else:
            failed = False
        finally:
            cut = self._watchdog.disarm(lease)
        fault = "check_timeout" if cut else "check_failed" if failed else None
        self._tally.add("checks", "failed" if fault else "passed")
        if fault is None:
            self._outage.reached()
            # From before the question, so that a failure noted since then still counts.
            connection.verified_at = started
        return fault

    def suspect(self) -> None:
        """Note that a connection failed: the others must prove themselves once more.

        Idle ones are swept in the background, at most one sweep at a time; those
        that the sweep misses are checked when they are next lent.
        """
        self._suspect_since = monotonic()
        if not self._sweeping.locked():
            # Where no thread can be started, the checks at checkout do the work.
            with suppress(RuntimeError):
                threading.Thread(target=self.sweep, name=SWEEP_NAME, daemon=True).start()

    def sweep(self) -> bool:
        """Check every idle connection once; False when a sweep is under way already."""
        if not self._sweeping.acquire(blocking=False):
            return False
        try:
            self._silent = False
            self._sweep_pool(self._probe)
        finally:
            self._sweeping.release()
        return True

    def _probe(self, connection: PooledConnection) -> None:
        """Close an idle connection that must be replaced.

        After one peer that does not answer, the sweep only polls: waiting for each in
        turn would keep the good connections from their callers. The rest stay
        suspect and prove themselves when they are next lent.
        """
        fault = "closed_by_peer" if connection.events() & GONE else None
        if fault is None and not self._silent:
            fault = self.round_trip(connection, monotonic() + SWEEP_SECONDS)
            self._silent = fault == "check_timeout"
        if fault:
            self._tally.add("discards", fault)
            connection.close()
