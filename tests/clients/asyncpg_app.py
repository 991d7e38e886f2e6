"""asyncpg: `asyncpg_app.py TABLES [asking]`.

Its pool notices a connection that was closed while it was idle, and does not ask one before it
lends it. `asking`: the application does, and takes another where there is no answer.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from ledger import WORKERS, Ledger

ATTEMPTS = 20
AGAIN_SECONDS = 0.1
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def take(pool: asyncpg.Pool, *, asking: bool) -> asyncpg.Connection:
    """Take a connection from the pool, one that has just answered if `asking`."""
    attempt = 0
    while True:
        attempt += 1
        connection = None
        try:
            connection = await pool.acquire()
            if asking:
                await connection.execute("SELECT 1")
            return connection
        except FAILURES:
            if connection:
                # The pool has dropped it already where it saw its end.
                with suppress(*FAILURES):
                    await pool.release(connection)
            if not asking or attempt == ATTEMPTS:
                raise
            await asyncio.sleep(AGAIN_SECONDS)


@asynccontextmanager
async def lent(pool: asyncpg.Pool, *, asking: bool) -> AsyncIterator[asyncpg.Connection]:
    """Lend a connection for the block."""
    connection = await take(pool, asking=asking)
    try:
        yield connection
    finally:
        await pool.release(connection)


async def work(worker: int, pool: asyncpg.Pool, ledger: Ledger, table: str, asking: bool) -> None:
    """Do transactions and reads."""
    insert = f"INSERT INTO {table}_entry (worker, number) VALUES ($1, $2)"
    update = f"UPDATE {table}_total SET entries = entries + 1 WHERE worker = $1"
    select = f"SELECT entries FROM {table}_total WHERE worker = $1"
    while ledger.goes_on():
        with ledger.attempt(worker) as attempt:
            async with lent(pool, asking=asking) as connection:
                async with connection.transaction():
                    await connection.execute(insert, worker, attempt.number)
                    await connection.execute(update, worker)
                    attempt.phase = "commit"
                # The pool resets the connection when it gets it back, after the COMMIT.
                attempt.phase = "read"
            async with lent(pool, asking=asking) as connection:
                entries = await connection.fetchval(select, worker)
            ledger.check(attempt, entries)
        await asyncio.sleep(ledger.pause())


async def main(table: str, asking: bool) -> None:
    """Run until told to stop. Where to connect is in libpq's variables."""
    ledger = Ledger()
    async with asyncpg.create_pool(min_size=WORKERS, max_size=WORKERS) as pool:
        await asyncio.gather(
            *(work(worker, pool, ledger, table, asking) for worker in range(WORKERS))
        )
    ledger.show()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], "asking" in sys.argv))
