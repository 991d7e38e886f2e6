"""SQLAlchemy with psycopg: the engine's pool, which asks a connection before it lends it."""

import threading
import time

from ledger import WORKERS, Ledger
from sqlalchemy import Engine, create_engine, text

INSERT = text("INSERT INTO sqlalchemy_entry (worker, number) VALUES (:worker, :number)")
UPDATE = text("UPDATE sqlalchemy_total SET entries = entries + 1 WHERE worker = :worker")
SELECT = text("SELECT entries FROM sqlalchemy_total WHERE worker = :worker")


def work(worker: int, engine: Engine, ledger: Ledger) -> None:
    """Do transactions and reads."""
    while ledger.goes_on():
        with ledger.attempt(worker) as attempt:
            with engine.begin() as connection:
                connection.execute(INSERT, {"worker": worker, "number": attempt.number})
                connection.execute(UPDATE, {"worker": worker})
                attempt.phase = "commit"
            attempt.phase = "read"
            with engine.connect() as connection:
                entries = connection.execute(SELECT, {"worker": worker}).scalar_one()
            ledger.check(attempt, entries)
        time.sleep(ledger.pause())


def main() -> None:
    """Run until told to stop. Where to connect is in libpq's variables."""
    ledger = Ledger()
    engine = create_engine(
        "postgresql+psycopg://", pool_size=WORKERS, max_overflow=0, pool_pre_ping=True
    )
    threads = [
        threading.Thread(target=work, args=(worker, engine, ledger)) for worker in range(WORKERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.show()


if __name__ == "__main__":
    main()
