"""Open CLIENTS connections at once and run QUERIES on each: what the pool makes of them.

Prints the number of client connections, the server processes that answered and the errors.
"""

import json
import os
import sys
import threading
from pathlib import Path

import psycopg

CLIENTS, QUERIES = int(sys.argv[1]), int(sys.argv[2])


def connect() -> psycopg.Connection:
    """Connect as the service does."""
    database = json.loads(Path(os.environ["SLUICE_SETTINGS"]).read_text())["database"]
    names = ("host", "port", "dbname", "user", "sslmode", "sslrootcert", "load_balance_hosts")
    return psycopg.connect(
        autocommit=True,
        password=Path(database["password_file"]).read_text(),
        connect_timeout=30,
        prepare_threshold=0,
        **{name: database[name] for name in names},
    )


def main() -> None:
    """Hold every connection open until all are, then query on all of them together."""
    all_open = threading.Barrier(CLIENTS, timeout=120)
    backends: set[int] = set()
    switched: list[int] = []
    errors: list[str] = []

    def client(number: int) -> None:
        try:
            with connect() as connection:
                all_open.wait()
                seen = set()
                for query in range(QUERIES):
                    row = connection.execute(
                        "SELECT pg_backend_pid(), %s::int + %s::int", (number, query)
                    ).fetchone()
                    assert row is not None
                    assert row[1] == number + query
                    seen.add(row[0])
                backends.update(seen)
                switched.append(len(seen))
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "clients": CLIENTS,
                "backends": len(backends),
                "most_backends_of_one_client": max(switched, default=0),
                "errors": errors,
            }
        )
    )


main()
