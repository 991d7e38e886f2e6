"""Leave the state of a session on every server connection, then look what other clients find.

    python -m tests.stack.probes.session_state COUNT [leave]

COUNT connections to each replica, each in a transaction at the same time. With `leave` it only
leaves. Prints {"seen": server connections that were looked at, "found": {kind: on how many of
them}, "prepared": executions of a client's prepared statements meanwhile}.
"""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg

from tests.stack.probes.cancels import Address, connect, replicas

LEAVE = (
    "SET statement_timeout = 0",
    "SET search_path = nowhere",
    "SET app.tenant = 'another'",
    "LISTEN session_state",
    "PREPARE session_state AS SELECT 1",
    "SELECT pg_advisory_lock_shared(4711)",
    "DECLARE session_state CURSOR WITH HOLD FOR SELECT 1",
)
LOOK = {
    "limit": "current_setting('statement_timeout') = '0'",
    "path": "current_setting('search_path') = 'nowhere'",
    "variable": "coalesce(current_setting('app.tenant', true), '') <> ''",
    "channel": "EXISTS (SELECT FROM pg_listening_channels())",
    "statement": "EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'session_state')",
    "lock": "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    "cursor": "EXISTS (SELECT FROM pg_cursors WHERE name = 'session_state')",
}
# A connection whose turn is not yet gets none while the others hold theirs.
TOGETHER_SECONDS = 1.0
PREPARED = 200

addresses = replicas()
places = [one for one in addresses for _ in range(int(sys.argv[1]))]


def together(work: Callable[[psycopg.Connection[Any]], Any]) -> list[Any]:
    """Do the work in a transaction on each of the places at once; return what came of each."""
    barrier = threading.Barrier(len(places))

    def do(address: Address) -> Any:
        with connect(address) as connection, connection.transaction():
            came = work(connection)
            with suppress(threading.BrokenBarrierError):
                barrier.wait(TOGETHER_SECONDS)
            return came

    with ThreadPoolExecutor(len(places)) as threads:
        return list(threads.map(do, places))


def leave(connection: psycopg.Connection[Any]) -> None:
    """Leave all of it, where nobody has before."""
    if not any(look(connection)[1]):
        for statement in LEAVE:
            connection.execute(statement)


def look(connection: psycopg.Connection[Any]) -> tuple[int, tuple[bool, ...]]:
    """Return the server process, and which kinds are there."""
    columns = ", ".join(LOOK.values())
    row = connection.execute(f"SELECT pg_backend_pid(), {columns}", prepare=False).fetchone()
    assert row is not None
    return row[0], row[1:]


def prepare() -> int:
    """Execute statements that were prepared; return how often that was right."""
    right = 0
    with connect(addresses[0]) as connection:
        for number in range(PREPARED):
            query = f"SELECT %s::int + {number % 5}"
            row = connection.execute(query, [number], prepare=True).fetchone()
            right += row == (number + number % 5,)
    return right


with ThreadPoolExecutor(1) as beside:
    executing = beside.submit(prepare)
    together(leave)
    prepared = executing.result()
if sys.argv[2:] == ["leave"]:
    print(json.dumps({"prepared": prepared}))
else:
    seen = dict(together(look))
    found = Counter(dict.fromkeys(LOOK, 0))
    for kinds in seen.values():
        found.update(name for name, there in zip(LOOK, kinds, strict=True) if there)
    print(json.dumps({"seen": len(seen), "found": found, "prepared": prepared}))
