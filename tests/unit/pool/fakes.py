"""A connection and a lender that do as they are told, for the runner's decisions.

What a real server does is tested against a real one; here it matters which try the
runner makes next, and no server fails on command in every way of the table.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg import Transaction
from psycopg.pq import TransactionStatus

from app.pool.metrics import Tally
from app.pool.runner import Runner
from app.pool.types import Deadline, PoolSettings, PoolState
from app.pool.watchdog import Lease

NEVER = float("inf")
STATE = PoolState("fake", 1, 1, 1, 0, 1, 0, 1)


def error(sqlstate: str | None, text: str = "message") -> psycopg.Error:
    made = psycopg.OperationalError(text)
    made.sqlstate = sqlstate
    return made


@dataclass
class FakeConnection:
    """Commits unless `commit_error` is set; `status` is what work leaves behind."""

    commit_error: BaseException | None = None
    closed: bool = False
    silent_loss: bool = False
    unreplicated: str = ""
    prepare_threshold: int | None = 5
    log: list[str] = field(default_factory=list)
    status: TransactionStatus = TransactionStatus.IDLE

    @property
    def pgconn(self) -> Any:
        return SimpleNamespace(transaction_status=self.status)

    def cut(self) -> None:
        self.closed = True

    def execute(self, query: str, parameters: tuple[str, ...] = ()) -> None:
        self.log.extend(parameters or (query,))

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        block = SimpleNamespace(status=Transaction.Status.ACTIVE)
        self.log.append("begin")
        self.status = TransactionStatus.INTRANS
        try:
            yield block
        except BaseException:
            self.log.append("rollback")
            self.status = TransactionStatus.IDLE
            raise
        self.status = TransactionStatus.IDLE
        if self.silent_loss:
            block.status = Transaction.Status.FAILED
            return
        self.log.append("commit")
        if self.commit_error:
            raise self.commit_error
        block.status = Transaction.Status.COMMITTED


@dataclass
class FakeLender:
    """Hands out `connections` in order, then clean ones; an exception is raised instead."""

    connections: list[FakeConnection | BaseException] = field(default_factory=list)
    lent: list[FakeConnection] = field(default_factory=list)
    returned: list[str | None] = field(default_factory=list)
    cut: bool = False
    unreachable: int = 0

    def borrow(self, deadline: Deadline, name: str) -> Any:
        following = self.connections.pop(0) if self.connections else FakeConnection()
        if isinstance(following, BaseException):
            raise following
        self.lent.append(following)
        made: Lease[Any] = Lease(following, deadline.at, NEVER, name, monotonic())
        made.cut = self.cut
        return made

    def give_back(self, lease: Any, discard: str | None) -> None:
        assert lease.connection in self.lent
        self.returned.append(discard)

    def note_unreachable(self) -> None:
        self.unreachable += 1

    def state(self) -> PoolState:
        return STATE


class Bench:
    """A runner on a fake lender, and the counts it keeps."""

    def __init__(self, *connections: FakeConnection | BaseException, **settings: Any) -> None:
        self.lender = FakeLender(list(connections))
        self.tally = Tally()
        self.origin = ""
        self.runner = Runner(
            self.lender,
            PoolSettings(**settings),
            self.tally,
            lambda work: self.origin and f"{work}/{self.origin}",
        )

    def run(self, work: Callable[[Any], Any], *, seconds: float = 10.0, **options: Any) -> Any:
        options = {"read_only": False, "lookup": None, "idempotent": False} | options
        job = self.runner.job(work, Deadline.after(seconds), "work", **options)
        return self.runner.run(job)

    def count(self, counter: str, label: str) -> int:
        return self.tally.counts().get((counter, label), 0)


class Script:
    """Work that raises or returns the given outcomes in order."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    def __call__(self, _connection: Any) -> Any:
        self.calls += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
