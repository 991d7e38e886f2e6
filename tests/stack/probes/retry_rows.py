"""Provoke failures on the real path, one by name, and print how the pool classifies each.

    python -m tests.stack.probes.retry_rows NAME [NAME ...]

Prints {NAME: {"class", "sqlstate", "text"}}. Needs the table risk.probe (key int PRIMARY
KEY, value int) with rows 1 and 2, which the test makes.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from app.pool.classification import classify
from app.pool.connection import PooledConnection, connect_arguments
from app.pool.types import ConnectRecord
from tests.stack.probes.settings import load

Connection = psycopg.Connection[Any]
UPDATE = "UPDATE risk.probe SET value = value + 1 WHERE key = %s"


def connect() -> Connection:
    """Connect as the pool does."""
    connection, _ = load()
    return PooledConnection.connect(**connect_arguments(connection, ConnectRecord(pool="probe")))


def begin(connection: Connection, level: str = "READ COMMITTED") -> None:
    """Open an explicit transaction."""
    connection.execute(f"BEGIN ISOLATION LEVEL {level}")


def statement(text: str) -> Callable[[], None]:
    """Return a provocation that runs one statement."""

    def run() -> None:
        with connect() as connection:
            connection.execute(text)

    return run


def raised(sqlstate: str) -> Callable[[], None]:
    """Return a provocation by which the server itself reports a state."""
    return statement(f"DO $$ BEGIN RAISE EXCEPTION 'provoked' USING ERRCODE = '{sqlstate}'; END $$")


def serialization() -> None:
    """Update a row that changed since the transaction's snapshot."""
    with connect() as one, connect() as other:
        begin(one, "REPEATABLE READ")
        one.execute("SELECT * FROM risk.probe")
        other.execute(UPDATE, (1,))
        other.commit()
        one.execute(UPDATE, (1,))


def deadlock() -> None:
    """Let two transactions wait for each other's row; the victim's error is raised."""
    with connect() as one, connect() as other:
        begin(one)
        begin(other)
        one.execute(UPDATE, (1,))
        other.execute(UPDATE, (2,))
        errors: list[psycopg.Error] = []

        def cross(connection: Connection, key: int) -> None:
            try:
                connection.execute(UPDATE, (key,))
            except psycopg.Error as error:
                errors.append(error)
            connection.rollback()

        threads = [threading.Thread(target=cross, args=pair) for pair in ((one, 2), (other, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raise errors[0]


def lock_timeout() -> None:
    """Wait for a lock for longer than lock_timeout."""
    with connect() as holder, connect() as waiter:
        begin(holder)
        holder.execute(UPDATE, (1,))
        waiter.execute(UPDATE, (1,))


def read_only() -> None:
    """Write in a transaction that only reads."""
    with connect() as connection:
        connection.execute("BEGIN READ ONLY")
        connection.execute(UPDATE, (1,))


def prepared_twice() -> None:
    """Prepare one name twice on one server connection."""
    with connect() as connection:
        begin(connection)
        connection.execute("PREPARE probe_twice AS SELECT 1")
        connection.execute("PREPARE probe_twice AS SELECT 1")


def idle_in_transaction() -> None:
    """Pause in a transaction for longer than idle_in_transaction_session_timeout."""
    with connect() as connection:
        begin(connection)
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = '300ms'")
        connection.execute(UPDATE, (1,))
        time.sleep(1)
        connection.execute("SELECT 1")


def transaction_timeout() -> None:
    """Stay busy in a transaction for longer than transaction_timeout."""
    with connect() as connection:
        begin(connection)
        for _ in range(12):
            connection.execute("SELECT pg_sleep(1)")


def stale_plan() -> None:
    """Run a prepared statement whose result type the test changes meanwhile."""
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'risk.probe'::regclass"
    with connect() as connection:
        connection.autocommit = True
        before = connection.execute(columns).fetchone()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            connection.execute("SELECT * FROM risk.probe", prepare=True)
            if connection.execute(columns).fetchone() != before:
                connection.execute("SELECT * FROM risk.probe", prepare=True)
            time.sleep(0.01)


PROVOCATIONS: dict[str, Callable[[], None]] = {
    "serialization": serialization,
    "deadlock": deadlock,
    "lock_timeout": lock_timeout,
    "terminated": statement("SELECT pg_terminate_backend(pg_backend_pid())"),
    "read_only": read_only,
    "unknown_prepared": statement("EXECUTE nobody_prepared_this"),
    "prepared_twice": prepared_twice,
    "stale_plan": stale_plan,
    "statement_timeout": statement("SELECT pg_sleep(60)"),
    "idle_in_transaction": idle_in_transaction,
    "transaction_timeout": transaction_timeout,
    "disk_full": raised("53100"),
    "out_of_memory": raised("53200"),
    "io_error": raised("58030"),
    "division_by_zero": statement("SELECT 1 / 0"),
    "not_null": statement("INSERT INTO risk.probe (key) VALUES (NULL)"),
    "unique": statement("INSERT INTO risk.probe (key) VALUES (1)"),
    "no_such_table": statement("SELECT * FROM risk.nothing"),
    # Their cause is the test's doing: a pause, a stopped server, a limit.
    "query": statement("SELECT 1"),
    "long_query": statement("SELECT pg_sleep(2.5)"),
}


def provoke(name: str) -> dict[str, str]:
    """Return the class, state and text of the failure that a provocation ends in."""
    try:
        PROVOCATIONS[name]()
    except psycopg.Error as error:
        return {
            "class": str(classify(error)),
            "sqlstate": error.sqlstate or "",
            "text": str(error),
        }
    return {"class": "", "sqlstate": "", "text": "no error"}


def main() -> None:
    """Provoke each name in turn, for one may wait for the row that another has locked."""
    results = {name: provoke(name) for name in sys.argv[1:]}
    sys.stdout.write(json.dumps(results) + "\n")


main()
