"""The ways to get a connection for an operation, each counting what it took and what failed."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from loadtest.compare.pattern import Row
from loadtest.database import arguments
from loadtest.figures import Histogram

POOL_TIMEOUT_SECONDS = 5.0
POOL_MIN_SIZE = 8
# "at most 20 connections after": the incident's own fix.
POOL_MAX_SIZE = 20


@dataclass(slots=True)
class Tally:
    """What operations took and how they failed; one per thread, merged afterwards."""

    acquired: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    timeouts: int = 0

    def merge(self, other: Tally) -> None:
        """Add another thread's counts."""
        self.acquired.merge(other.acquired)
        self.errors.update(other.errors)
        self.operations += other.operations
        self.timeouts += other.timeouts


class Way(Protocol):
    """One way to run operations; `operation` is called from any thread."""

    def operation(self, tally: Tally, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        """Run one statement on a connection got for it; return its first row, if any."""

    def task_ended(self) -> None:
        """Release what the calling thread still holds; called after every task."""

    def close(self) -> None:
        """Close every connection."""


class ConnectionPerOperation:
    """The incident: connect, run one statement, and close once `held` others were opened.

    `held` is how many connections a thread keeps: 1 closes each before the next is opened;
    12 is the incident, where the twelve operations of a risk type each kept theirs.
    """

    def __init__(self, target: str, held: int) -> None:
        self._arguments = arguments(target)
        self._held = held
        self._mine = threading.local()

    def operation(self, tally: Tally, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        """Run one statement on a new connection."""
        tally.operations += 1
        open_ones = self._open_ones()
        while len(open_ones) >= self._held:
            open_ones.popleft().close()
        started = time.perf_counter()
        try:
            connection = psycopg.connect(**self._arguments, autocommit=True)
        except psycopg.Error as error:
            _count(tally, error)
            raise
        tally.acquired.add(time.perf_counter() - started)
        open_ones.append(connection)
        return _first(connection, statement, parameters)

    def task_ended(self) -> None:
        """Close the thread's connections: its objects are gone."""
        open_ones = self._open_ones()
        while open_ones:
            with suppress(psycopg.Error):
                open_ones.popleft().close()

    def close(self) -> None:
        """Nothing outlives a task."""

    def _open_ones(self) -> deque[psycopg.Connection[Row]]:
        if not hasattr(self._mine, "open"):
            self._mine.open = deque()
        found: deque[psycopg.Connection[Row]] = self._mine.open
        return found


class PooledStatement:
    """The incident's own fix: one pool in the process, a checkout per statement."""

    def __init__(self, target: str, *, wait: bool = True) -> None:
        self._pool = ConnectionPool(
            kwargs=arguments(target) | {"autocommit": True},
            min_size=POOL_MIN_SIZE,
            max_size=POOL_MAX_SIZE,
            timeout=POOL_TIMEOUT_SECONDS,
            # A server without room is asked again soon, for as long as the run may last.
            reconnect_timeout=POOL_TIMEOUT_SECONDS,
            open=False,
        )
        # A server without room refuses hundreds of times: what an operation feels of it is counted.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self._pool.open()
        if wait:
            self._pool.wait(timeout=30.0)

    def operation(self, tally: Tally, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        """Run one statement on a pooled connection."""
        tally.operations += 1
        started = time.perf_counter()
        try:
            connection = self._pool.getconn()
        except psycopg.Error as error:
            _count(tally, error)
            raise
        tally.acquired.add(time.perf_counter() - started)
        try:
            return _first(connection, statement, parameters)
        except psycopg.Error as error:
            _count(tally, error)
            raise
        finally:
            self._pool.putconn(connection)

    @property
    def connections(self) -> int:
        """How many connections the pool has open now."""
        return int(self._pool.get_stats()["pool_size"])

    def task_ended(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Close the pool."""
        self._pool.close(timeout=5.0)


WAYS: dict[str, Callable[[], Way]] = {
    "as_it_was": lambda: ConnectionPerOperation("direct", held=12),
    "per_operation": lambda: ConnectionPerOperation("direct", held=1),
    "pool_direct": lambda: PooledStatement("direct"),
    "pool_pgbouncer": lambda: PooledStatement("pgbouncer"),
}


def _first(
    connection: psycopg.Connection[Row], statement: str, parameters: Mapping[str, Any]
) -> Row | None:
    cursor = connection.execute(statement, parameters)
    return cursor.fetchone() if cursor.description is not None else None


def _count(tally: Tally, error: psycopg.Error) -> None:
    if isinstance(error, (PoolTimeout, psycopg.errors.ConnectionTimeout)):
        tally.timeouts += 1
    # A failure to connect carries no SQLSTATE: the server's sentence is the kind.
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    sentence = first_line.rpartition("FATAL: ")[2].strip() or type(error).__name__
    tally.errors[f"{type(error).__name__}: {sentence[:120]}"] += 1
