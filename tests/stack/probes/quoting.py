"""Have every kind of error of the database quote a value, as the service's role through the pool.

Prints {name of the path: what the client was told}; the value, a number, is the argument.
"""

import json
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from app.pool.connection import driver_arguments, read_password
from tests.stack.probes.settings import load

ROW = (
    "INSERT INTO risk.assessments (assessment_id, idempotency_key, request_hash, asset_value,"
    " insurance_coverage_rate, scenarios, year_from, year_to, total_tasks) VALUES "
)
VALUES = "(gen_random_uuid(), {!r}, '', {}, 0.5, '{{SSP126}}', 2021, 2022, 1)"


def connect(*, autocommit: bool = False) -> psycopg.Connection:
    """Connect as the service does."""
    settings, _ = load()
    return psycopg.connect(
        **driver_arguments(settings) | {"autocommit": autocommit}, password=read_password(settings)
    )


def statements(canary: str) -> dict[str, str]:
    """Return the statements that quote the value, by the path on which it could reach a log."""
    row = VALUES.format(canary, 1)
    return {
        "unique violation": f"{ROW}{row}, {row}",
        "check violation": ROW + VALUES.format(canary, -1),
        "invalid input": f"SELECT {canary!r}::int",
        "out of range": f"SELECT '{canary}99'::bigint",
        "too long": ROW + VALUES.format(canary * 20, 1),
        "no such column": f'SELECT "{canary}" FROM risk.assessments',
        "syntax": f"SELECT {canary!r} FROM FROM",
        "division": f"SELECT 1 / (length({canary!r}) * 0)",
        "raise": f"DO $$ BEGIN RAISE EXCEPTION '%', {canary!r}; END $$",
        "raise in a function": f"DO $$ BEGIN RAISE WARNING '%', {canary!r}; PERFORM 1/0; END $$",
        "refused role": f"CREATE ROLE intruder PASSWORD {canary!r}",
        "refused password": f"ALTER ROLE risk_owner PASSWORD {canary!r}",
    }


def copied(connection: psycopg.Connection, canary: str) -> None:
    """Send a row that cannot be converted: the context quotes it."""
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY risk.assessment_sites FROM STDIN") as copy,
    ):
        copy.write(f"{canary}\t{canary}\n")


def timed_out(connection: psycopg.Connection, canary: str) -> None:
    """Run a statement into its timeout."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = '50ms'")
        connection.execute(f"SELECT pg_sleep(9), {canary!r}")


def slow(connection: psycopg.Connection, canary: str) -> None:
    """Run long enough for a slow statement, with the value in it and beside it."""
    connection.execute(f"SELECT pg_sleep(1.1), {canary!r} WHERE {canary!r} <> ''")
    connection.execute("SELECT pg_sleep(1.1) WHERE %s::text <> 'another'", [canary])


def deadlock(canary: str) -> str:
    """Have two transactions wait for each other; return what the one that was ended was told."""
    together, told = threading.Barrier(2), []

    def take(first: int, second: int) -> None:
        with connect() as connection:
            try:
                connection.execute(f"SELECT pg_advisory_xact_lock({first}), {canary!r}")
                together.wait(10)
                connection.execute(f"SELECT pg_advisory_xact_lock({second}), {canary!r}")
            except psycopg.Error as error:
                told.append(str(error))

    threads = [threading.Thread(target=take, args=pair) for pair in ((71, 72), (72, 71))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told[0]


def attempt(work: Callable[[], Any]) -> str:
    """Return what the client was told of one attempt."""
    try:
        work()
    except psycopg.Error as error:
        return str(error)
    return "no error"


def main() -> None:
    """Drive every path, report."""
    canary = sys.argv[1]
    told: dict[str, str] = {}
    with connect(autocommit=True) as connection:
        for name, statement in statements(canary).items():
            told[name] = attempt(partial(connection.execute, statement.encode()))
        told["copy"] = attempt(lambda: copied(connection, canary))
        told["timeout"] = attempt(lambda: timed_out(connection, canary))
        told["slow"] = attempt(lambda: slow(connection, canary))
    told["deadlock"] = deadlock(canary)
    print(json.dumps(told))


main()
