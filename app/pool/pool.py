"""The pool as a service sees it: open, run work, resize, look at it, close."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic, sleep
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry
from psycopg import Connection, capabilities
from psycopg.rows import TupleRow

from .lender import Lender, Loan
from .metrics import Source, collector_for
from .runner import Runner
from .types import (
    ConnectionSettings,
    DatabaseUnavailable,
    Deadline,
    PoolSettings,
    PoolState,
    is_outage,
    size_faults,
)

T = TypeVar("T")
Work = Callable[[Connection[TupleRow]], T]

OPEN_POLL_SECONDS = 0.01
LIBRARY_STOP_SECONDS = 1.0  # its idle threads stop at once; one that connects takes longer
LIBRARY_LOGGER = "psycopg.pool"

log = structlog.get_logger(__name__)


class DatabasePool:
    """A psycopg pool with cheap checks, deadlines that hold, and safe retries.

    `name` labels metrics, logs and errors. Metrics go to `registry`; without one the
    pool keeps a registry of its own. `origin` returns what the present work is done for,
    such as the id of a request, or "": the application_name of each transaction has it, and
    with that PostgreSQL's log and pg_stat_activity. The object starts closed; a closed pool
    cannot be opened again.
    """

    def __init__(
        self,
        connection: ConnectionSettings,
        pool: PoolSettings,
        *,
        name: str,
        registry: CollectorRegistry | None = None,
        origin: Callable[[], str] = lambda: "",
    ) -> None:
        self.name = name
        self.registry = registry if registry is not None else CollectorRegistry()
        # Without where the password is: a log of settings must not lead to it.
        self._arguments = asdict(connection) | asdict(pool)
        del self._arguments["password_file"]
        self._prepares = connection.prepare_threshold is not None
        self._lender = Lender(connection, pool, name)
        prefix = connection.application_name

        def label(work: str) -> str:
            done_for = origin()
            return f"{prefix}/{work}/{done_for}" if done_for else ""

        self._runner = Runner(self._lender, pool, self._lender.tally, label)
        self.source = Source(name, self.state, self._lender.tally, self._counts)
        self._collector = collector_for(self.registry)

    def open(self, *, deadline: Deadline) -> None:
        """Start connecting and return once `min_size` connections are there.

        After a failure the pool stays open and goes on trying, so that the caller may
        serve without a database, call `open` again, or `close`.

        Raises:
            DatabaseUnavailable: the connections were not there by the deadline.
            psycopg.NotSupportedError: libpq is too old for prepared statements
                through a pooler (needs 17; or set prepare_threshold to None).

        """
        if self._prepares:
            capabilities.has_send_close_prepared(check=True)
        _quieten_library()
        self._lender.watchdog.start()
        self._collector.add(self.source)
        if self._lender.reservoir.closed:
            log.info("pool opened", name=self.name, **self._arguments)
        self._lender.reservoir.open(wait=False)
        while (state := self.state()).idle + state.in_use < state.min_size:
            if deadline.expired:
                raise self._not_open(state)
            self._lender.reservoir.revive()
            sleep(OPEN_POLL_SECONDS)

    def close(self, timeout_seconds: float) -> None:
        """Refuse new borrowers, wait for the present ones, then close everything.

        A connection still lent after `timeout_seconds` is closed when it comes back;
        its deadline holds until then.
        """
        until = monotonic() + timeout_seconds
        self._lender.closing = True
        if not self._lender.watchdog.wait_until_idle(timeout_seconds):
            log.warning(
                "pool closed with connections lent", pool=self.name, state=str(self.state())
            )
        self._lender.reservoir.close(timeout=max(LIBRARY_STOP_SECONDS, until - monotonic()))
        self._lender.watchdog.stop()
        self._collector.remove(self.source)

    def run(
        self,
        work: Callable[[Connection[TupleRow]], T],
        *,
        deadline: Deadline,
        name: str,
        read_only: bool = False,
        lookup: Callable[[Connection[TupleRow]], T | None] | None = None,
        idempotent: bool = False,
    ) -> T:
        """Run `work` on a connection, repeat it where that is safe, return its result.

        Work runs in one explicit transaction, begun and committed here; with
        `read_only=True` it runs in autocommit without one, and may be repeated
        freely. It may be called several times, each time on a clean connection, and
        must have no effect outside the database.

        When the answer to COMMIT is lost, `lookup` is asked, on a fresh connection,
        whether the work is in the database: what it returns is the result, None
        means that it is not to be seen there and is repeated. `idempotent=True` repeats
        without asking. With neither, and where the repetition comes to nothing, the
        caller gets CommitOutcomeUnknown. `lookup` also
        answers a unique violation. Protect the work by a unique key or a fence that
        the lookup reads: a COMMIT may still be on its way when the lookup runs.

        Raises:
            PoolSaturated: every connection is lent and the queue is full or too slow.
            DeadlineExceeded: the deadline passed; nothing was committed.
            CommitOutcomeUnknown: COMMIT was sent, its answer is not known.
            DatabaseUnavailable: the database does not serve; nothing was committed.
            TransactionMisuse: work ended or spoilt the transaction itself.

        Every other exception is the work's own, unchanged, after a rollback.

        """
        job = self._runner.job(
            work, deadline, name, read_only=read_only, lookup=lookup, idempotent=idempotent
        )
        return self._runner.run(job)

    def connection(self, *, deadline: Deadline, name: str) -> Loan:
        """Lend one connection in autocommit for a `with` block, without retries.

        What is left open at the end is rolled back and counted. After the deadline
        the connection is cut, and the statement in flight fails as psycopg reports it.

        Raises:
            DatabaseUnavailable: as for `run`, on entering, when none can be lent.

        """
        return Loan(self._lender, deadline, name)

    def state(self) -> PoolState:
        """Return the pool's numbers now."""
        return self._lender.state()

    def resize(self, min_size: int, max_size: int) -> None:
        """Set the limits now; surplus connections close when idle or returned.

        Raises:
            ValueError: min_size exceeds max_size, or either is too small.

        """
        if faults := list(size_faults(min_size, max_size)):
            raise ValueError("\n".join(faults))
        self._lender.reservoir.resize(min_size, max_size)
        log.info("pool resized", pool=self.name, min_size=min_size, max_size=max_size)

    def drain(self) -> None:
        """Replace every connection: idle ones now, lent ones when they come back."""
        self._lender.reservoir.drain()
        log.info("pool drained", pool=self.name)

    def check(self) -> bool:
        """Check every idle connection now; False when a check is under way already."""
        return self._lender.health.sweep()

    def _not_open(self, state: PoolState) -> DatabaseUnavailable:
        connects = self._lender.connects
        why = connects.last_error if is_outage(state, connects) else "connecting takes too long"
        return DatabaseUnavailable(f"open: fewer than min_size connections ({why})", state)

    def _counts(self) -> dict[tuple[str, str], int]:
        lender = self._lender
        return {
            ("connects", "opened"): lender.connects.opened,
            ("connects", "failed"): lender.connects.failed,
            ("leaks", ""): lender.watchdog.leaks,
            ("watchdog_cuts", ""): lender.watchdog.cuts,
        }


def _quieten_library() -> None:
    """Keep the library from logging each checkout (INFO) and each failed attempt (WARNING).

    A level that somebody has set stays. The pool logs what the warnings say itself,
    once for each outage.
    """
    logger = logging.getLogger(LIBRARY_LOGGER)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
