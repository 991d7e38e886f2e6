"""Running work on one connection: what it may leave behind, and when COMMIT was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg import Connection, Transaction
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from .connection import PooledConnection
from .errors import TransactionMisuse
from .watchdog import Lease

T = TypeVar("T")

SPOILT = {
    TransactionStatus.IDLE: "ended the transaction; leave COMMIT and ROLLBACK to the pool",
    TransactionStatus.INERROR: "went on after a failed statement; let its error pass, "
    "or put the statement in a savepoint with connection.transaction()",
    TransactionStatus.ACTIVE: "left a statement running; read its result or close its COPY",
}


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


def run_write(work: Callable[[Connection[TupleRow]], T], lease: Lease[PooledConnection]) -> T:
    """Run work in one transaction and commit it.

    `lease.committing` is set just before COMMIT is sent: a failure until then means
    that nothing was committed, a lost connection after it leaves the outcome open.

    Raises:
        TransactionMisuse: work ended the transaction, or left it failed or busy.

    """
    with lease.connection.transaction() as transaction:
        result = _guarded(work, lease)
        _require_open(lease)
        lease.committing = True
    # psycopg leaves the block in silence when libpq knows already that the
    # connection is gone, and then it never sent COMMIT.
    if transaction.status is not Transaction.Status.COMMITTED:
        lease.committing = False
        raise psycopg.OperationalError("the connection is lost before COMMIT was sent")
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
