"""Three workloads on app.pool whose histories a checker can judge: bank, lists, counters.

    python /app/workload.py --seed 1 --out /history [--careless stale-read dirty-read]

It runs in the api's image, as an application behind the path: where to connect is in libpq's
variables. Each client (a thread) does one operation after another until the file `stop` is among
its secrets, and writes what it did, one JSON object a line, to `history.jsonl`:

    workload, kind   bank: transfer, balances; list: transaction; counter: increment
    client, id       who did it, and its name among all operations
    began, ended     seconds of the machine's monotonic clock
    outcome          ok: committed; fail: not committed; unknown: its COMMIT had no answer
    error            what the caller got instead of a result
    ...              what was asked and what was answered

An application that works carefully leaves no violation. `--careless` names ways not to be careful,
so that the checkers can show that they find what follows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg.rows import TupleRow

from app.pool import (
    CommitOutcomeUnknown,
    ConnectionSettings,
    DatabasePool,
    DatabaseUnavailable,
    Deadline,
    PoolSettings,
)

Connection = psycopg.Connection[TupleRow]
Work = Callable[[Connection], Any]
Fields = dict[str, Any]

STOP = Path("/run/secrets/stop")
CLIENTS_PER_WORKLOAD = 4
DEADLINE_SECONDS = 10.0
PAUSE_SECONDS = 0.05
ACCOUNTS, INITIAL = 8, 100
COUNTERS = 2
# So many appends to a list, then the next key takes its place: a read has all of it.
KEYS, APPENDS = 3, 64
STALE_SECONDS = 0.5
CARELESS = ("lost-update", "doubled-retry", "dirty-read", "stale-read")
LOCKING, SERIALIZABLE = "read committed", "serializable"

TABLES = f"""
CREATE TABLE account (
    bank text, id integer, balance integer NOT NULL, PRIMARY KEY (bank, id));
INSERT INTO account SELECT bank, id, {INITIAL}
    FROM unnest(ARRAY['{LOCKING}', '{SERIALIZABLE}']) bank, generate_series(1, {ACCOUNTS}) id;
CREATE TABLE transfer (id text PRIMARY KEY, bank text, source integer, target integer,
    amount integer);
CREATE TABLE list (key integer PRIMARY KEY, items integer[] NOT NULL);
CREATE TABLE appended (id text PRIMARY KEY);
CREATE TABLE counter (id integer PRIMARY KEY, value integer NOT NULL);
INSERT INTO counter SELECT id, 0 FROM generate_series(1, {COUNTERS}) id;
CREATE TABLE increment (id text PRIMARY KEY, counter integer, value integer);
"""
NAMES = ("account", "transfer", "list", "appended", "counter", "increment")
BALANCES = "SELECT array_agg(balance ORDER BY id) FROM account WHERE bank = %s"
TWO = "SELECT id, balance FROM account WHERE bank = %s AND id = ANY(%s) ORDER BY id"
PAY = "UPDATE account SET balance = %s WHERE bank = %s AND id = %s"
APPEND = """
INSERT INTO list VALUES (%s, ARRAY[%s::integer])
ON CONFLICT (key) DO UPDATE SET items = list.items || excluded.items
"""


class Recorder:
    """Writes each operation once it has ended; a killed process leaves the lines before it."""

    def __init__(self, out: Path) -> None:
        self._file = (out / "history.jsonl").open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def note(self, operation: Fields) -> None:
        """Write one operation."""
        with self._lock:
            self._file.write(json.dumps(operation) + "\n")
            self._file.flush()


class Client:
    """One thread of one workload."""

    workload = ""

    def __init__(
        self, number: int, pool: DatabasePool, recorder: Recorder, seed: int, careless: list[str]
    ) -> None:
        self.name = f"{self.workload}-{number}"
        self.pool, self._recorder, self.careless = pool, recorder, careless
        self.random = random.Random(f"{seed} {self.name}")  # noqa: S311  # reproducible, no secret
        self._number = 0

    def next(self) -> None:
        """Do one operation."""
        raise NotImplementedError

    def go_on(self, until: float) -> None:
        """Do operations until told to stop."""
        while time.monotonic() < until and not STOP.exists():
            self.next()
            time.sleep(self.random.uniform(0, PAUSE_SECONDS))

    def do(self, kind: str, work: Callable[[str], Fields], fields: Fields | None = None) -> None:
        """Have `work` do an operation, and record what became of it."""
        self._number += 1
        operation = f"{self.name}-{self._number}"
        record: Fields = {"workload": self.workload, "kind": kind}
        record |= {"client": self.name, "id": operation} | (fields or {})
        record["began"] = time.monotonic()
        try:
            record |= {"outcome": "ok"} | work(operation)
        except CommitOutcomeUnknown as error:
            record |= {"outcome": "unknown", "error": error.reason}
        except (DatabaseUnavailable, psycopg.Error) as error:
            record |= {"outcome": "fail", "error": f"{type(error).__name__}: {error}"[:300]}
        record["ended"] = time.monotonic()
        self._recorder.note(record)

    def write(self, work: Work, operation: str, lookup: Work | None = None) -> Any:
        """Run work in one transaction; after a COMMIT without an answer it is looked up."""
        deadline = Deadline.after(DEADLINE_SECONDS)
        return self.pool.run(work, deadline=deadline, name=operation, lookup=lookup)

    def read(self, work: Work, operation: str) -> Any:
        """Run one statement in autocommit."""
        deadline = Deadline.after(DEADLINE_SECONDS)
        return self.pool.run(work, deadline=deadline, name=operation, read_only=True)


class Bank(Client):
    """Transfers between accounts: no account is overdrawn and the sum never changes.

    In one bank rows are locked before they are read, at read committed; in the other nothing is
    locked, and PostgreSQL keeps transactions serializable.
    """

    workload = "bank"

    def next(self) -> None:
        bank = self.random.choice((LOCKING, SERIALIZABLE))
        if self.random.random() < 0.3:
            self.do("balances", lambda name: self._look(name, bank), {"bank": bank})
            return
        source, target = self.random.sample(range(1, ACCOUNTS + 1), 2)
        asked = {"source": source, "target": target, "amount": self.random.randint(1, 40)}

        def transfer(name: str) -> Fields:
            paid = self.write(
                lambda connection: self._pay(connection, name, bank, **asked),
                name,
                lambda connection: _paid(connection, name),
            )
            return {"paid": paid}

        self.do("transfer", transfer, {"bank": bank} | asked)

    def _look(self, name: str, bank: str) -> Fields:
        (balances,) = self.read(lambda one: one.execute(BALANCES, (bank,)).fetchone(), name)
        return {"balances": balances}

    def _pay(
        self, connection: Connection, name: str, bank: str, source: int, target: int, amount: int
    ) -> bool:
        locks = bank == LOCKING and "lost-update" not in self.careless
        if bank == SERIALIZABLE:
            connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        # First of all: a second try waits here for the end of a first one that may still commit.
        row = (name, bank, source, target, amount)
        connection.execute("INSERT INTO transfer VALUES (%s, %s, %s, %s, %s)", row)
        rows = connection.execute(TWO + " FOR UPDATE" * locks, (bank, [source, target]))
        balances: dict[int, int] = dict(rows.fetchall())
        if balances[source] < amount:
            connection.execute("UPDATE transfer SET amount = 0 WHERE id = %s", (name,))
            return False
        connection.execute(PAY, (balances[source] - amount, bank, source))
        connection.execute(PAY, (balances[target] + amount, bank, target))
        return True


def _paid(connection: Connection, name: str) -> bool | None:
    row = connection.execute("SELECT amount > 0 FROM transfer WHERE id = %s", (name,)).fetchone()
    return bool(row[0]) if row else None


class Lists(Client):
    """Serializable transactions that append values, each used once, to lists, and read them."""

    workload = "list"
    _lock = threading.Lock()
    _value = 0
    _appends = 0
    _cache: ClassVar[dict[int, tuple[float, list[int]]]] = {}

    def next(self) -> None:
        steps = [self._step() for _ in range(self.random.randint(1, 4))]

        def transaction(name: str) -> Fields:
            if all(kind == "read" for kind, _, _ in steps) and len(steps) == 1:
                return self._glance(name, steps[0][1])
            answered = self.write(
                lambda connection: _perform(connection, name, steps),
                name,
                lambda connection: _appended(connection, name),
            )
            if "dirty-read" in self.careless and self.random.random() < 0.1:
                # It tells its caller that nothing was done.
                return {"outcome": "fail"}
            return {"steps": answered} if answered else {}

        self.do("transaction", transaction, {"steps": steps})

    def _step(self) -> tuple[str, int, int | list[int] | None]:
        with Lists._lock:
            first = Lists._appends // APPENDS
            key = first + self.random.randrange(KEYS)
            if self.random.random() < 0.5:
                return ("read", key, None)
            Lists._appends += 1
            Lists._value += 1
            return ("append", key, Lists._value)

    def _glance(self, name: str, key: int) -> Fields:
        if "stale-read" in self.careless:
            taken, items = Lists._cache.get(key, (0.0, []))
            if time.monotonic() - taken < STALE_SECONDS:
                return {"steps": [("read", key, items)]}
        items = self.read(lambda connection: _items(connection, key), name)
        Lists._cache[key] = (time.monotonic(), items)
        return {"steps": [("read", key, items)]}


def _perform(connection: Connection, name: str, steps: list[Any]) -> list[Any]:
    connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    # First of all, as in the bank.
    if any(kind == "append" for kind, _, _ in steps):
        connection.execute("INSERT INTO appended VALUES (%s)", (name,))
    done = []
    for kind, key, value in steps:
        if kind == "append":
            connection.execute(APPEND, (key, value))
            done.append((kind, key, value))
        else:
            done.append((kind, key, _items(connection, key)))
    return done


def _items(connection: Connection, key: int) -> list[int]:
    row = connection.execute("SELECT items FROM list WHERE key = %s", (key,)).fetchone()
    return row[0] if row else []


def _appended(connection: Connection, name: str) -> list[Any] | None:
    """Return an empty answer where it is committed: what it has read is lost."""
    found = connection.execute("SELECT FROM appended WHERE id = %s", (name,)).fetchone()
    return None if found is None else []


class Counters(Client):
    """Increments, each with a name that its lookup asks for after a COMMIT without an answer."""

    workload = "counter"

    def next(self) -> None:
        counter = self.random.randint(1, COUNTERS)

        def increment(name: str) -> Fields:
            value = self.write(
                lambda connection: _increment(connection, name, counter),
                name,
                lambda connection: _incremented(connection, name),
            )
            if "doubled-retry" in self.careless and self.random.random() < 0.1:
                # The answer was lost, it thinks, and does it again under a new name.
                value = self.write(lambda one: _increment(one, f"{name}-again", counter), name)
            return {"value": value}

        self.do("increment", increment, {"counter": counter})


def _increment(connection: Connection, name: str, counter: int) -> int:
    row = connection.execute(
        "UPDATE counter SET value = value + 1 WHERE id = %s RETURNING value", (counter,)
    ).fetchone()
    assert row is not None
    connection.execute("INSERT INTO increment VALUES (%s, %s, %s)", (name, counter, row[0]))
    return int(row[0])


def _incremented(connection: Connection, name: str) -> int | None:
    row = connection.execute("SELECT value FROM increment WHERE id = %s", (name,)).fetchone()
    return int(row[0]) if row else None


KINDS: tuple[type[Client], ...] = (Bank, Lists, Counters)
CLIENTS = tuple(
    f"{kind.workload}-{number}" for kind in KINDS for number in range(CLIENTS_PER_WORKLOAD)
)


def main() -> None:
    """Run every workload until told to stop; an error that no client expects is raised then."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds-max", type=float, required=True)
    parser.add_argument("--careless", choices=CARELESS, nargs="*", default=[])
    given = parser.parse_args()
    size = len(CLIENTS)
    pool = DatabasePool(
        ConnectionSettings(
            host=os.environ["PGHOST"],
            port=int(os.environ["PGPORT"]),
            dbname=os.environ["PGDATABASE"],
            user=os.environ["PGUSER"],
            password_file=f"/run/secrets/{os.environ['PGUSER']}.password",
            sslrootcert=os.environ["PGSSLROOTCERT"],
        ),
        PoolSettings(min_size=size, max_size=size, retry_attempts_max=10),
        name="proof",
    )
    pool.open(deadline=Deadline.after(30.0))
    recorder = Recorder(given.out)
    clients = [
        kind(number, pool, recorder, given.seed, given.careless)
        for kind in KINDS
        for number in range(CLIENTS_PER_WORKLOAD)
    ]
    until = time.monotonic() + given.seconds_max
    with ThreadPoolExecutor(size) as threads:
        ends = [threads.submit(one.go_on, until) for one in clients]
    for end in ends:
        end.result()
    pool.close(timeout_seconds=DEADLINE_SECONDS)


if __name__ == "__main__":
    main()
