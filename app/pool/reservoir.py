"""psycopg_pool.ConnectionPool with its behaviour changed in a few places, all of them in this file.

It relies on these private names of psycopg_pool 3.3: `_lock`, `_pool`, `_nconns`,
`_min_size`, `_max_size`, `_nconns_min`, `_waiting`, `_maybe_grow_pool`, `_check_size`,
`_check_open_getconn`, `_getconn_unchecked`, `_return_connection`, `_close_connection`.
A test fails when one of them is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from psycopg_pool import ConnectionPool
from psycopg_pool.pool import AddConnection, MaintenanceTask

from .connection import PooledConnection

RECONNECT_DELAY_MAX_SECONDS = 1.0


class Reservoir(ConnectionPool[PooledConnection]):
    """A ConnectionPool that reconnects steadily, resizes exactly and can be swept."""

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        """Schedule as the base class does, but reconnect at least once a second.

        The base class doubles the delay, so that after some seconds of outage the
        pool would stay empty for many more although the database is back.
        """
        if isinstance(task, AddConnection):
            delay = min(delay, RECONNECT_DELAY_MAX_SECONDS)
        super().schedule_task(task, delay)

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Set the limits, open what is missing and close what is surplus and idle.

        The base class adds the difference of the two minimums however many
        connections are open already, which can exceed `max_size`, and closes a
        surplus only as it idles out.
        """
        min_size, max_size = self._check_size(min_size, max_size)
        with self._lock:
            self._min_size, self._max_size = min_size, max_size
            missing = max(0, min_size - self._nconns)
            self._nconns += missing
            surplus = self._take_surplus()
            if self._waiting:
                self._maybe_grow_pool()
        for _ in range(missing):
            self.run_task(AddConnection(self))
        for connection in surplus:
            self._close_connection(connection)

    def take(self, timeout: float) -> PooledConnection:
        """Lend a connection as `getconn` does, but without its loop around a check.

        This pool checks outside the library; the loop and its two log calls were a
        quarter of what a checkout cost.

        Raises:
            PoolTimeout: none came free within `timeout` seconds.
            TooManyRequests: the queue is full.
            PoolClosed: the pool is not open.

        """
        self._check_open_getconn()
        return self._getconn_unchecked(timeout)

    def give_back(self, connection: PooledConnection) -> bool:
        """Return a lent connection; False when it was closed as surplus instead."""
        if self._nconns > self._max_size and self._retire(connection):
            return False
        self.putconn(connection)
        return True

    def replace(self, connection: PooledConnection) -> None:
        """Close a lent connection and open another in the background."""
        if self._retire(connection):
            return
        self._close_connection(connection)
        if not self.closed:
            self.run_task(AddConnection(self))

    def sweep(self, probe: Callable[[PooledConnection], None]) -> None:
        """Pass every idle connection to `probe`, which closes those to be replaced.

        The base class's `check` waits without bound for a peer that does not answer,
        and opens one connection more at each call.
        """
        with self._lock:
            connections = list(self._pool)
            self._pool.clear()
        while connections:
            connection = connections.pop()
            try:
                probe(connection)
            finally:
                self._return_connection(connection, from_getconn=True)

    def forget_timed_out(self) -> None:
        """Take callers that stopped waiting out of the queue.

        The base class leaves them there until a connection comes back, so that in an
        outage they fill the queue and newcomers are refused as if it were full.
        """
        with self._lock:
            self._waiting = deque(w for w in self._waiting if w.error is None)

    def revive(self) -> None:
        """Open a connection where reconnecting was given up; does nothing else."""
        with self._lock:
            if self._nconns < self._min_size:
                self._maybe_grow_pool()

    def _take_surplus(self) -> list[PooledConnection]:
        surplus = []
        while self._nconns > self._max_size and self._pool:
            surplus.append(self._pool.popleft())
            self._nconns -= 1
        self._nconns_min = min(self._nconns_min, len(self._pool))
        return surplus

    def _retire(self, connection: PooledConnection) -> bool:
        with self._lock:
            if self._nconns <= self._max_size:
                return False
            self._nconns -= 1
        self._close_connection(connection)
        return True
