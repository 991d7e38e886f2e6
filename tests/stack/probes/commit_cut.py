"""Cuts connections between COMMIT and its answer and counts the rows, as JSON.

    python -m tests.stack.probes.commit_cut

Every key must be in the table exactly once, although each first COMMIT is lost on the
way there or its answer on the way back.

Environment: SLUICE_SETTINGS (/etc/sluice/api.json); PROBE_TABLE, a table with a unique
column `key text` that the service's user may insert into, select from and delete from.
"""

import json
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from psycopg import sql

from app.pool import DatabasePool, Deadline
from tests.stack.probes.proxy import Loss, Proxy
from tests.stack.probes.settings import load

ROUNDS = 20
DEADLINE_SECONDS = 5.0


def insert_once(proxy: Proxy, loss: Loss, key: str, table: sql.Identifier) -> Callable[[Any], str]:
    """Return work that inserts `key` and has its first COMMIT lost."""
    losses = [loss]

    def work(connection: Any) -> str:
        connection.execute(sql.SQL("INSERT INTO {} (key) VALUES (%s)").format(table), (key,))
        if losses:
            proxy.loss = losses.pop()
        return key

    return work


def find(key: str, table: sql.Identifier) -> Callable[[Any], str | None]:
    """Return the lookup that tells whether `key` is in the table."""

    def lookup(connection: Any) -> str | None:
        query = sql.SQL("SELECT key FROM {} WHERE key = %s").format(table)
        row = connection.execute(query, (key,)).fetchone()
        return row[0] if row else None

    return lookup


def main() -> int:
    """Lose answers and requests in turn; the exit status is 1 unless every key is there once."""
    connection, settings = load()
    table = sql.Identifier(*os.environ["PROBE_TABLE"].split("."))
    proxy = Proxy((connection.host, connection.port))
    # The certificate does not name the proxy; the rest of the path is as deployed.
    through = replace(connection, host="127.0.0.1", port=proxy.port, sslmode="require")
    pool = DatabasePool(through, settings, name="commit-cut")
    pool.open(deadline=Deadline.after(30.0))
    keys = [f"probe-{uuid.uuid4()}" for _ in range(ROUNDS)]
    for number, key in enumerate(keys):
        loss = Loss.REPLY if number % 2 else Loss.REQUEST
        pool.run(
            insert_once(proxy, loss, key, table),
            deadline=Deadline.after(DEADLINE_SECONDS),
            name="commit-cut",
            lookup=find(key, table),
        )
    found = pool.run(
        lambda c: c.execute(
            sql.SQL("DELETE FROM {} WHERE key = ANY(%s) RETURNING key").format(table), (keys,)
        ).fetchall(),
        deadline=Deadline.after(DEADLINE_SECONDS),
        name="commit-cut",
        idempotent=True,
    )
    proxy.close()
    pool.close(5.0)
    sys.stdout.write(json.dumps({"keys": len(keys), "rows": len(found)}) + "\n")
    return 0 if sorted(row[0] for row in found) == sorted(keys) else 1


if __name__ == "__main__":
    sys.exit(main())
