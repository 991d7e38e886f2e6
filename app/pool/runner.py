"""One way to run work: try, judge the failure, repeat what is safe to repeat.

One try is a read in autocommit or a write in one transaction, at the end of this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from time import monotonic, sleep
from typing import Any, Generic, Protocol, TypeVar

import psycopg
from psycopg import Connection, Transaction
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from .classification import RULES, Answer, FailureClass, classify, is_fatal, is_unreachable
from .connection import PooledConnection
from .metrics import Tally
from .types import (
    CommitOutcomeUnknown,
    DatabaseUnavailable,
    Deadline,
    DeadlineExceeded,
    PoolSettings,
    PoolState,
    TransactionMisuse,
    summary,
)
from .watchdog import Lease

T = TypeVar("T")
Work = Callable[[Connection[TupleRow]], T]

BACKOFF_MAX_SECONDS = 2.0
# Until the transaction ends. SET would be a statement of its own in pg_stat_statements for each
# value; in a pipeline with BEGIN it takes longer than by itself.
SET_NAME = "SELECT set_config('application_name', %s, true)"
# Writes to the log, so that its COMMIT waits for a standby where there is one: whatever was read
# before it in the transaction is on that standby too.
CONFIRM = "SELECT pg_logical_emit_message(true, 'sluice', '')"
NAME_MAX = 63  # characters that PostgreSQL keeps of it

SPOILT = {
    TransactionStatus.IDLE: "ended the transaction; leave COMMIT and ROLLBACK to the pool",
    TransactionStatus.INERROR: "went on after a failed statement; let its error pass, "
    "or put the statement in a savepoint with connection.transaction()",
    TransactionStatus.ACTIVE: "left a statement running; read its result or close its COPY",
}


class Lender(Protocol):
    """What the runner needs of the pool."""

    def borrow(self, deadline: Deadline, name: str) -> Lease[PooledConnection]:
        """Lend a checked connection, or raise DatabaseUnavailable."""

    def give_back(self, lease: Lease[PooledConnection], discard: str | None) -> None:
        """Take a connection back; `discard` is why it must not be lent again."""

    def note_unreachable(self) -> None:
        """Note that no server was reached."""

    def state(self) -> PoolState:
        """Return the pool's numbers now."""


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """One call of run and what has happened to it so far."""

    work: Work[T]
    deadline: Deadline
    name: str
    read_only: bool
    lookup: Work[T | None] | None
    idempotent: bool
    give_up_at: float
    in_doubt: bool = False
    """A COMMIT of an earlier try got no answer, and nothing has resolved it since."""
    failures: Counter[FailureClass] = field(default_factory=Counter)
    waits: int = 0
    """Tries that ended in the pool's queue."""


class _Again(Exception):  # noqa: N818 - a signal to the retry loop, never seen outside
    """Asks for another try; `final` is what to raise where none is possible."""

    def __init__(self, failure: FailureClass, final: DatabaseUnavailable) -> None:
        self.failure = failure
        self.final = final
        super().__init__(str(final))


class Runner:
    """Repeats tries within the deadline, the retry budget and the number of tries."""

    def __init__(
        self,
        lender: Lender,
        settings: PoolSettings,
        tally: Tally,
        label: Callable[[str], str] = lambda _name: "",
    ) -> None:
        self._lender = lender
        self._settings = settings
        self._tally = tally
        # From the name of a work to the application_name of its transaction; "": as it is.
        self._label = label

    def job(
        self,
        work: Work[T],
        deadline: Deadline,
        name: str,
        *,
        read_only: bool,
        lookup: Work[T | None] | None,
        idempotent: bool,
    ) -> Job[T]:
        """Return the job of one call; its retry budget starts now."""
        budget_at = monotonic() + self._settings.retry_budget_seconds
        give_up_at = min(deadline.at, budget_at)
        return Job(work, deadline, name, read_only, lookup, idempotent, give_up_at)

    def run(self, job: Job[T]) -> T:
        """Return the work's result, or raise what the caller is to see."""
        try:
            return self._tries(job)
        except CommitOutcomeUnknown:
            self._tally.add("commits_in_doubt", "unknown")
            raise
        except DatabaseUnavailable as error:
            if not job.in_doubt:
                raise
            self._tally.add("commits_in_doubt", "unknown")
            raise self._unknown(job, error.reason) from error

    def _tries(self, job: Job[T]) -> T:
        tries = 0
        while True:
            tries += 1
            try:
                return self._attempt(job)
            except _Again as again:
                failure = again.failure
                pause = _backoff(failure, tries)
                # A wait in the queue has asked nothing of the database: only the time limits it.
                spent = tries - job.waits >= self._settings.retry_attempts_max
                if spent or monotonic() + pause >= job.give_up_at:
                    return self._last_resort(job, again.final)
            self._tally.add("retries", failure.value)
            sleep(pause)

    def _last_resort(self, job: Job[T], final: DatabaseUnavailable) -> T:
        """Look an open commit up once more after the last try; otherwise give up."""
        if job.in_doubt and job.lookup is not None and not job.deadline.expired:
            try:
                found = self._look_up(job, job.lookup)
            except _Again:
                raise final from final.__cause__
            if found is not None:
                return found
        raise final from final.__cause__

    def _attempt(self, job: Job[T]) -> T:
        if job.in_doubt and job.lookup is not None:
            found = self._look_up(job, job.lookup)
            if found is not None:
                return found
        try:
            result = self._once(job, job.work, job.read_only)
        except psycopg.Error as error:
            return self._replay(job, error)
        if job.in_doubt:
            self._resolve(job, "repeated")
        return result

    def _replay(self, job: Job[T], error: psycopg.Error) -> T:
        """Answer a taken unique key with the result that took it, where there is one."""
        if job.lookup is not None and classify(error) is FailureClass.DUPLICATE:
            found = self._look_up(job, job.lookup)
            if found is not None:
                return found
        raise error

    def _look_up(self, job: Job[T], lookup: Work[T | None]) -> T | None:
        """Return what was committed, None where it is not to be seen, which leaves the doubt.

        A COMMIT that waits, for a standby or for its disk, shows nothing yet and can still succeed.
        """
        found = self._once(job, _confirmed(lookup), read_only=False)
        if found is not None and job.in_doubt:
            self._resolve(job, "found")
        return found

    def _resolve(self, job: Job[Any], outcome: str) -> None:
        job.in_doubt = False
        self._tally.add("commits_in_doubt", outcome)

    def _once(self, job: Job[Any], work: Work[T], read_only: bool) -> T:
        lease = self._borrow(job)
        try:
            result = self._perform(job, lease, work, read_only)
        except psycopg.Error as error:
            verdict = self._judge(job, lease, error)
            if verdict is None:
                raise
            raise verdict from error
        except BaseException:
            self._lender.give_back(lease, None)
            raise
        self._lender.give_back(lease, None)
        return result

    def _perform(
        self, job: Job[Any], lease: Lease[PooledConnection], work: Work[T], read_only: bool
    ) -> T:
        run = run_read if read_only else partial(run_write, label=self._label(job.name))
        if FailureClass.STALE_PLAN not in job.failures:
            return run(work, lease)
        # The pooler shares a prepared statement among clients, so that another connection
        # may meet the same stale plan: this try prepares nothing.
        connection = lease.connection
        threshold, connection.prepare_threshold = connection.prepare_threshold, None
        try:
            return run(work, lease)
        finally:
            connection.prepare_threshold = threshold

    def _borrow(self, job: Job[Any]) -> Lease[PooledConnection]:
        try:
            return self._lender.borrow(job.deadline, job.name)
        except DeadlineExceeded:
            raise
        except DatabaseUnavailable as refusal:
            failure = classify(refusal.__cause__) if refusal.__cause__ else FailureClass.PERMANENT
            if RULES[failure].retries_max == 0:
                raise
            job.waits += failure is FailureClass.POOL_TIMEOUT
            raise _Again(failure, refusal) from refusal.__cause__

    def _judge(
        self, job: Job[Any], lease: Lease[PooledConnection], error: psycopg.Error
    ) -> Exception | None:
        """Give the connection back; return what to raise, or None for the error itself."""
        if is_unreachable(error):
            self._lender.note_unreachable()
        gone = lease.connection.closed or is_fatal(error)
        failure = classify(error, broken=gone)
        discard = gone or RULES[failure].discard
        self._lender.give_back(lease, failure.value if discard else None)
        in_doubt = lease.committing and (gone or failure is FailureClass.LOST)
        if in_doubt:
            job.in_doubt = True
        if lease.cut and RULES[failure].answer is not Answer.ORIGINAL:
            return DeadlineExceeded(f"{job.name}: the deadline passed", self._lender.state())
        if in_doubt:
            return self._doubtful(job, error)
        return self._known(job, failure, error)

    def _doubtful(self, job: Job[Any], error: psycopg.Error) -> Exception:
        final = self._unknown(job, summary(error))
        final.__cause__ = error
        repeatable = job.lookup is not None or job.idempotent
        return _Again(FailureClass.LOST, final) if repeatable else final

    def _known(
        self, job: Job[Any], failure: FailureClass, error: psycopg.Error
    ) -> Exception | None:
        rule = RULES[failure]
        if rule.answer is Answer.ORIGINAL:
            return None
        job.failures[failure] += 1
        final = DatabaseUnavailable(f"{job.name}: {summary(error)}", self._lender.state())
        final.__cause__ = error
        exhausted = rule.retries_max is not None and job.failures[failure] > rule.retries_max
        return final if exhausted else _Again(failure, final)

    def _unknown(self, job: Job[Any], reason: str) -> CommitOutcomeUnknown:
        return CommitOutcomeUnknown(
            f"{job.name}: COMMIT got no answer ({reason})", self._lender.state()
        )


def _confirmed(lookup: Work[T | None]) -> Work[T | None]:
    """Return the lookup, its answer on a standby: another COMMIT may not have waited for one."""

    def work(connection: Connection[TupleRow]) -> T | None:
        found = lookup(connection)
        if found is not None:
            connection.execute(CONFIRM)
        return found

    return work


def _backoff(failure: FailureClass, tries: int) -> float:
    """Return the seconds to wait: the class's own, doubled each time, half to half again."""
    base: float = RULES[failure].backoff_seconds * 2.0 ** (tries - 1)
    return min(BACKOFF_MAX_SECONDS, base) * uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret


def run_read(work: Callable[[Connection[TupleRow]], T], lease: Lease[PooledConnection]) -> T:
    """Run work in autocommit: no transaction around it, two round trips saved.

    Raises:
        TransactionMisuse: work opened a transaction and left it open.

    """
    result = work(lease.connection)
    status = TransactionStatus(lease.connection.pgconn.transaction_status)
    if status in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
        return result
    raise TransactionMisuse(
        f"{lease.name}: read-only work left its connection {status.name}; "
        "use connection.transaction(), or run it with read_only=False"
    )


def run_write(
    work: Callable[[Connection[TupleRow]], T], lease: Lease[PooledConnection], label: str = ""
) -> T:
    """Run work in one transaction and commit it; `label` is its application_name, where given.

    `lease.committing` is set just before COMMIT is sent: a failure until then means
    that nothing was committed; a lost connection after it leaves the outcome open, and so does
    a server that stopped waiting for a standby.

    Raises:
        TransactionMisuse: work ended the transaction, or left it failed or busy.

    """
    with lease.connection.transaction() as transaction:
        if label:
            lease.connection.execute(SET_NAME, (label[:NAME_MAX],))
        result = _guarded(work, lease)
        _require_open(lease)
        lease.committing = True
    # psycopg leaves the block in silence when libpq knows already that the
    # connection is gone, and then it never sent COMMIT.
    if transaction.status is not Transaction.Status.COMMITTED:
        lease.committing = False
        raise psycopg.OperationalError("the connection is lost before COMMIT was sent")
    if lease.connection.unreplicated:
        raise psycopg.OperationalError(lease.connection.unreplicated)
    return result


def _guarded(work: Callable[[Connection[TupleRow]], T], lease: Lease[PooledConnection]) -> T:
    try:
        return work(lease.connection)
    except psycopg.Rollback as rollback:
        # psycopg would swallow it at the end of the block, and with it the result.
        raise TransactionMisuse(
            f"{lease.name}: work raised psycopg.Rollback; raise an exception of your own"
        ) from rollback


def _require_open(lease: Lease[PooledConnection]) -> None:
    status = TransactionStatus(lease.connection.pgconn.transaction_status)
    if status is TransactionStatus.UNKNOWN:
        raise psycopg.OperationalError("the connection is lost before COMMIT was sent")
    if status is not TransactionStatus.INTRANS:
        raise TransactionMisuse(f"{lease.name}: work {SPOILT[status]}")
