"""psycopg, asynchronous: its pool asks a connection before it lends it."""

import asyncio

from ledger import WORKERS, Ledger
from psycopg_pool import AsyncConnectionPool

INSERT = "INSERT INTO psycopg_entry (worker, number) VALUES (%s, %s)"
UPDATE = "UPDATE psycopg_total SET entries = entries + 1 WHERE worker = %s"
SELECT = "SELECT entries FROM psycopg_total WHERE worker = %s"


async def work(worker: int, pool: AsyncConnectionPool, ledger: Ledger) -> None:
    """Do transactions and reads."""
    while ledger.goes_on():
        with ledger.attempt(worker) as attempt:
            async with pool.connection() as connection:
                await connection.execute(INSERT, [worker, attempt.number])
                await connection.execute(UPDATE, [worker])
                attempt.phase = "commit"
            attempt.phase = "read"
            async with pool.connection() as connection:
                cursor = await connection.execute(SELECT, [worker])
                (entries,) = await cursor.fetchone() or (-1,)
            ledger.check(attempt, entries)
        await asyncio.sleep(ledger.pause())


async def main() -> None:
    """Run until told to stop. Where to connect is in libpq's variables."""
    ledger = Ledger()
    async with AsyncConnectionPool(
        min_size=WORKERS, max_size=WORKERS, check=AsyncConnectionPool.check_connection, open=False
    ) as pool:
        await asyncio.gather(*(work(worker, pool, ledger) for worker in range(WORKERS)))
    ledger.show()


if __name__ == "__main__":
    asyncio.run(main())
