"""Statements that are cancelled, beside some that are not: `cancels.py asyncpg|psycopg COUNT`.

A notice tells that a statement runs, and another that it ran to its end. What the programs in
other languages do and print as well, one line of JSON:

    sent   statements that were cancelled while they ran
    lost   those of them that ran to their end
    wrong  statements of bystanders that were cancelled
    other  errors that are no cancellation
"""

import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import suppress

import asyncpg
import psycopg

VICTIMS = 2
# Longer than a cancel request takes, and within the role's statement_timeout.
STATEMENT = "DO $$ BEGIN RAISE NOTICE 'runs'; PERFORM pg_sleep(2); RAISE NOTICE 'ended'; END $$"
BYSTANDER = "SELECT pg_sleep(0.002)"


class Record:
    """What is printed."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.counts: Counter[str] = Counter(sent=0, lost=0, wrong=0, beside=0)
        self.other: list[str] = []

    def take(self) -> bool:
        """Return whether there is one more to cancel; count it."""
        self.left -= 1
        return self.left >= 0

    def ended(self, notices: asyncio.Queue[str], error: str) -> None:
        """Count a statement that has ended."""
        said = [notices.get_nowait() for _ in range(notices.qsize())]
        self.counts["sent"] += 1
        self.counts["lost"] += "ended" in said
        if error:
            self.other.append(error)


async def cancel_asyncpg(record: Record) -> None:
    """Cancel the task that waits: asyncpg sends the request by itself."""
    notices: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect()
    connection.add_log_listener(lambda _, message: notices.put_nowait(message.message))
    while record.take():
        running = asyncio.ensure_future(connection.execute(STATEMENT))
        assert await notices.get() == "runs"
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        try:
            # It waits until the connection is free again.
            await connection.execute("SELECT 1")
            error = ""
        except asyncpg.QueryCanceledError as late:
            error = f"the next statement: {late}"
        record.ended(notices, error)
    await connection.close()


async def cancel_psycopg(record: Record) -> None:
    """Cancel by libpq's own request."""
    notices: asyncio.Queue[str] = asyncio.Queue()
    connection = await psycopg.AsyncConnection.connect(autocommit=True)
    connection.add_notice_handler(lambda one: notices.put_nowait(one.message_primary or ""))
    while record.take():
        running = asyncio.ensure_future(connection.execute(STATEMENT))
        assert await notices.get() == "runs"
        await connection.cancel_safe(timeout=10)
        error = ""
        try:
            await running
        except psycopg.errors.QueryCanceled as cancelled:
            error = "" if "user request" in str(cancelled) else str(cancelled)
        except psycopg.Error as other:
            error = str(other)
        record.ended(notices, error)
    await connection.close()


async def stand_by(record: Record, ending: asyncio.Event) -> None:
    """Run statements that nobody cancels."""
    connection = await psycopg.AsyncConnection.connect(autocommit=True)
    while not ending.is_set():
        try:
            await connection.execute(BYSTANDER)
            record.counts["beside"] += 1
        except psycopg.errors.QueryCanceled:
            record.counts["wrong"] += 1
    await connection.close()


async def main(driver: str, count: int) -> None:
    """Cancel on two connections at once, beside two that are left alone."""
    record, ending = Record(count), asyncio.Event()
    cancel = {"asyncpg": cancel_asyncpg, "psycopg": cancel_psycopg}[driver]
    beside = [asyncio.ensure_future(stand_by(record, ending)) for _ in range(2)]
    await asyncio.gather(*(cancel(record) for _ in range(VICTIMS)))
    ending.set()
    await asyncio.gather(*beside)
    print(json.dumps({**record.counts, "other": record.other}))


if __name__ == "__main__":
    os.environ.setdefault("PGAPPNAME", "cancels")
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
