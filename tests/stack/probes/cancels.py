"""Run a statement through one replica and cancel it through the next, COUNT times over all of them.

Meanwhile a bystander runs statements on every replica. Prints {"sent", "lost": statements that ran
to their end, "other": their other errors, "wrong": cancelled statements of bystanders, "beside":
statements of theirs}.
"""

import collections
import json
import os
import socket
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from tests.stack.probes.proxy import Proxy

# A notice is sent at once: from then on the statement runs, and can be cancelled.
VICTIM = "DO $$ BEGIN RAISE NOTICE 'runs'; PERFORM pg_sleep(2); END $$"
BYSTANDER = "SELECT pg_sleep(0.002)"
STARTS_SECONDS, CANCEL_SECONDS = 10.0, 5.0

DATABASE = json.loads(Path(os.environ["SLUICE_SETTINGS"]).read_text())["database"]
Address = tuple[str, int]


def connect(address: Address) -> psycopg.Connection[Any]:
    """Connect as the service does, to one address."""
    names = ("host", "dbname", "user", "sslmode", "sslrootcert")
    return psycopg.connect(
        autocommit=True,
        password=Path(DATABASE["password_file"]).read_text(),
        hostaddr=address[0],
        port=address[1],
        connect_timeout=10,
        **{name: DATABASE[name] for name in names},
    )


def replicas() -> list[Address]:
    """Return the address of every replica."""
    found = socket.getaddrinfo(DATABASE["host"], DATABASE["port"], socket.AF_INET)
    return sorted({(str(entry[4][0]), int(entry[4][1])) for entry in found})


def cancel_through(own: Address, other: Address) -> str:
    """Cancel a statement of a connection to `own` through `other`; return how it ended."""
    proxy = Proxy(own)
    runs = threading.Event()
    with connect(("127.0.0.1", proxy.port)) as connection:
        # What libpq opens to cancel goes where the connection went: to the proxy.
        proxy.upstream = other
        connection.add_notice_handler(lambda _: runs.set())

        def cancel() -> None:
            if runs.wait(STARTS_SECONDS):
                connection.cancel_safe(timeout=CANCEL_SECONDS)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            connection.execute(VICTIM)
            ended = "lost"
        except psycopg.errors.QueryCanceled as error:
            ended = "cancelled" if "user request" in str(error) else str(error)
        except psycopg.Error as error:
            ended = str(error)
        canceller.join()
    proxy.close()
    return ended


def stand_by(address: Address, ending: threading.Event, counts: collections.Counter[str]) -> None:
    """Run statements on a replica until the end; count them, and those that were cancelled."""
    with connect(address) as connection:
        while not ending.is_set():
            try:
                connection.execute(BYSTANDER)
                counts["beside"] += 1
            except psycopg.errors.QueryCanceled:
                counts["wrong"] += 1


def main() -> None:
    """Cancel on every replica at once, one after the other on each."""
    addresses = replicas()
    counts: collections.Counter[str] = collections.Counter(lost=0, wrong=0, beside=0, sent=0)
    others: list[str] = []
    ending = threading.Event()

    def cancel_all(own: Address, other: Address) -> None:
        for _ in range(int(sys.argv[1]) // len(addresses)):
            ended = cancel_through(own, other)
            counts["sent"] += 1
            if ended == "lost":
                counts["lost"] += 1
            elif ended != "cancelled":
                others.append(ended)

    beside = [threading.Thread(target=stand_by, args=(one, ending, counts)) for one in addresses]
    turns = pairwise([*addresses, addresses[0]])
    victims = [threading.Thread(target=cancel_all, args=turn) for turn in turns]
    for thread in (*beside, *victims):
        thread.start()
    for thread in victims:
        thread.join()
    ending.set()
    for thread in beside:
        thread.join()
    print(json.dumps({**counts, "other": others}))


if __name__ == "__main__":
    main()
