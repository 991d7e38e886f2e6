"""Lending one connection: wait for it, check it, watch it, take it back clean."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from time import monotonic

import psycopg
import structlog
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from .classification import FailureClass
from .connection import PooledConnection, configure, connect_arguments, restore
from .health import PROBE_NAME, Health, Outage
from .metrics import Tally
from .reservoir import Reservoir
from .types import (
    ConnectionSettings,
    ConnectRecord,
    DatabaseUnavailable,
    Deadline,
    DeadlineExceeded,
    PoolSaturated,
    PoolSettings,
    PoolState,
    is_outage,
)
from .watchdog import LeakReport, Lease, Watchdog

HARMLESS = frozenset({"dirty", FailureClass.STALE_PLAN, FailureClass.WRONG_SERVER})
"""Reasons for giving up a connection that say nothing about the others."""

log = structlog.get_logger(__name__)


class Lender:
    """Owns the connections of one pool and what watches over them."""

    def __init__(self, connection: ConnectionSettings, pool: PoolSettings, name: str) -> None:
        self._connection = connection
        self._settings = pool
        self._name = name
        self.closing = False
        """Set to refuse new borrowers while the present ones finish."""
        self.tally = Tally()
        self.connects = ConnectRecord(pool=name, opened_within=self.tally.create_time.add)
        self.watchdog: Watchdog[PooledConnection] = Watchdog(name, on_leak=self._report_leak)
        self.reservoir = _reservoir(connection, pool, name, self.connects)
        # A caller is refused at once only after waiting has failed for a whole budget.
        patience = max(pool.retry_budget_seconds, pool.timeout_seconds)
        self.outage = Outage(after_seconds=patience, probe=self._probe)
        self.health = Health(
            check_idle_seconds=pool.check_idle_seconds,
            watchdog=self.watchdog,
            tally=self.tally,
            outage=self.outage,
            sweep_pool=self.reservoir.sweep,
        )

    def state(self) -> PoolState:
        """Return the pool's numbers now; they are read one after the other."""
        stats = self.reservoir.get_stats()
        return PoolState(
            name=self._name,
            size=stats["pool_size"],
            min_size=stats["pool_min"],
            max_size=stats["pool_max"],
            in_use=self.watchdog.active,
            idle=stats["pool_available"],
            waiting=stats["requests_waiting"],
            max_waiting=self._settings.max_waiting,
            unreachable=self.outage.known,
        )

    def note_unreachable(self) -> None:
        """Note that no server was reached; see `Outage`."""
        self.outage.failed()

    def borrow(self, deadline: Deadline, name: str) -> Lease[PooledConnection]:
        """Lend a connection that has just been found good.

        Waits at most `timeout_seconds`, and never past the deadline.

        Raises:
            PoolSaturated: all connections stayed lent, or the queue is full.
            DeadlineExceeded: the deadline came first.
            DatabaseUnavailable: no connection can be made, no server has been reached
                for longer than the retry budget (then at once), or the pool is closed.

        """
        if self.closing:
            raise DatabaseUnavailable(f"{name}: the pool is closed", self.state())
        if self.outage.known:
            self.outage.keep_probing()
            self.tally.add("timeouts", "outage")
            raise DatabaseUnavailable(f"{name}: {self._unreachable_since()}", self.state())
        started = monotonic()
        limit_at = min(deadline.at, started + self._settings.timeout_seconds)
        connection = self._any_connection(limit_at - started, deadline, name)
        if self.health.doubtful(connection):
            connection = self._good_connection(connection, deadline, limit_at, name)
        connection.work = name
        now = monotonic()
        lease = Lease(
            connection, deadline.at, now + self._settings.leak_threshold_seconds, name, now
        )
        self.watchdog.arm(lease)
        self.tally.wait_time.add(now - started)
        return lease

    def give_back(self, lease: Lease[PooledConnection], discard: str | None) -> None:
        """Take a connection back: clean and watched no more, or closed and replaced."""
        connection = lease.connection
        if connection.pgconn.transaction_status != TransactionStatus.IDLE and not discard:
            discard = self._clean(lease)
        if self.watchdog.disarm(lease):
            self.tally.add("timeouts", "deadline")
            discard = "deadline"
        now = monotonic()
        self.tally.use_time.add(now - lease.borrowed_at)
        if discard:
            self._discard(connection, discard)
            if discard not in HARMLESS:
                self.health.suspect()
            return
        connection.verified_at = now
        if self.outage.since is not None:
            self.outage.reached()
        if restore(connection, self._connection):
            self.tally.add("dirty_returns", "settings")
        if not self.reservoir.give_back(connection):
            self.tally.add("discards", "surplus")

    def _good_connection(
        self, connection: PooledConnection, deadline: Deadline, limit_at: float, name: str
    ) -> PooledConnection:
        """Return the connection if it is good, or the first good one after it."""
        while True:
            try:
                fault = self.health.fault(connection, limit_at)
            except BaseException:
                # Whatever interrupts the check (Ctrl-C), the pool gets its connection back.
                self._discard(connection, "check_failed")
                raise
            if fault is None:
                return connection
            self._discard(connection, fault)
            connection = self._any_connection(limit_at - monotonic(), deadline, name)

    def _any_connection(self, timeout: float, deadline: Deadline, name: str) -> PooledConnection:
        try:
            return self.reservoir.take(timeout)
        except TooManyRequests as error:
            self.tally.add("timeouts", "queue_full")
            raise PoolSaturated(f"{name}: the queue is full", self.state(), 1.0) from error
        except PoolTimeout as error:
            self.reservoir.forget_timed_out()
            self.tally.add("wait_timeouts")
            raise self._acquire_timeout_error(deadline, name) from error
        except PoolClosed as error:
            raise DatabaseUnavailable(f"{name}: the pool is closed", self.state()) from error

    def _acquire_timeout_error(self, deadline: Deadline, name: str) -> DatabaseUnavailable:
        state = self.state()
        if is_outage(state, self.connects):
            self.tally.add("timeouts", "outage")
            if self.connects.failing:
                self.outage.failed()
            why = self.connects.last_error if self.connects.failing else "no answer to connecting"
            return DatabaseUnavailable(f"{name}: no connection can be made ({why})", state)
        if deadline.expired and state.in_use < state.max_size:
            self.tally.add("timeouts", "deadline")
            return DeadlineExceeded(f"{name}: the deadline passed in the queue", state, 1.0)
        self.tally.add("timeouts", "saturated")
        return PoolSaturated(f"{name}: no connection came free in time", state, 1.0)

    def _unreachable_since(self) -> str:
        since = self.outage.since
        seconds = 0.0 if since is None else monotonic() - since
        return f"no server has been reached for {seconds:.0f} s; the pool goes on trying"

    def _probe(self) -> bool:
        """Make one round trip, which notes its outcome; return False once the pool closes."""
        deadline = Deadline.after(self._settings.timeout_seconds)
        with suppress(DatabaseUnavailable):
            connection = self._any_connection(deadline.remaining(), deadline, PROBE_NAME)
            fault = self.health.round_trip(connection, deadline.at)
            if fault:
                self._discard(connection, fault)
            elif not self.reservoir.give_back(connection):
                self.tally.add("discards", "surplus")
        return not self.closing

    def _clean(self, lease: Lease[PooledConnection]) -> str | None:
        """End what the borrower left open; return why the connection must go, or None.

        The loan is still watched, so a rollback that gets no answer is cut off.
        """
        connection = lease.connection
        status = TransactionStatus(connection.pgconn.transaction_status)
        if status is TransactionStatus.UNKNOWN:
            return "lost"
        self.tally.add("dirty_returns", status.name.lower())
        log.warning("connection returned dirty", pool=self._name, work=lease.name, left=status.name)
        if status is TransactionStatus.ACTIVE:
            return "dirty"
        try:
            connection.rollback()
        except psycopg.Error:
            return "dirty"
        except BaseException:
            self.watchdog.disarm(lease)
            self._discard(connection, "dirty")
            raise
        return None

    def _discard(self, connection: PooledConnection, reason: str) -> None:
        """Close a connection; the pool replaces it in the background."""
        self.tally.add("discards", reason)
        # By its address PgBouncer's lines about it are found.
        log.info(
            "connection discarded",
            pool=self._name,
            reason=reason,
            work=connection.work,
            address=connection.address,
        )
        self.reservoir.replace(connection)

    def _report_leak(self, report: LeakReport) -> None:
        log.warning(
            "connection held too long",
            pool=self._name,
            work=report.name,
            held_seconds=round(report.held_seconds, 3),
            thread=report.thread,
            stack=report.stack,
        )


class Loan:
    """One loan as a context manager.

    A class: a generator in its place costs two microseconds more, half of what the
    library's whole checkout costs.
    """

    __slots__ = ("_deadline", "_lease", "_lender", "_name")

    def __init__(self, lender: Lender, deadline: Deadline, name: str) -> None:
        self._lender = lender
        self._deadline = deadline
        self._name = name

    def __enter__(self) -> PooledConnection:
        """Borrow the connection; raise as `Lender.borrow` does."""
        self._lease = self._lender.borrow(self._deadline, self._name)
        return self._lease.connection

    def __exit__(self, *error: object) -> None:
        """Give the connection back; an error of the block passes."""
        self._lender.give_back(self._lease, None)


def _reservoir(
    connection: ConnectionSettings, pool: PoolSettings, name: str, record: ConnectRecord
) -> Reservoir:
    """Build the library's pool, closed, with every argument spelt out."""
    return Reservoir(
        # All parameters are in kwargs, where none needs quoting.
        conninfo="",
        connection_class=PooledConnection,
        # A callable, so that the password file is read again for each connection.
        kwargs=partial(connect_arguments, connection, record),
        min_size=pool.min_size,
        max_size=pool.max_size,
        # Opened by the application, after it has set up its logging.
        open=False,
        configure=partial(configure, settings=connection),
        # The library's check loop sleeps a second between two dead connections, and
        # `timeout` does not bound the check: both are done here instead.
        check=None,
        # Would move every return to a worker thread; `give_back` cleans in place.
        reset=None,
        name=name,
        # `close` on a lent connection closes it: the pool takes it back another way.
        close_returns=False,
        timeout=pool.timeout_seconds,
        max_waiting=pool.max_waiting,
        max_lifetime=pool.max_lifetime_seconds,
        max_idle=pool.max_idle_seconds,
        # After this the pool gives up, and the next request makes it try again.
        reconnect_timeout=pool.reconnect_timeout_seconds,
        # Failed attempts to connect are in the record; the library logs each.
        reconnect_failed=None,
        num_workers=pool.num_workers,
    )
