"""An application behind the path, with a pool of psycopg's own: reads and writes until it is told.

`python application.py NAME SECONDS`, with its secrets in /run/secrets: it ends once there is a file
`stop` beside them, or after the seconds. Prints one line of JSON: how
many transactions it did, and every error that it saw.
"""

import json
import sys
import threading
import time
from pathlib import Path

from psycopg_pool import ConnectionPool

THREADS = 8


def main() -> None:
    """Run, and print what came of it."""
    name, seconds = sys.argv[1], float(sys.argv[2])
    with open(f"/run/secrets/{name}.password", encoding="ascii") as file:
        password = file.read()
    conninfo = (
        f"host=pgbouncer port=6432 dbname={name} user={name} password={password} "
        "sslmode=verify-full sslrootcert=/run/secrets/ca.crt connect_timeout=3 application_name=app"
    )
    errors: list[str] = []
    done = [0] * THREADS
    until, stop = time.monotonic() + seconds, Path("/run/secrets/stop")

    def work(number: int, pool: ConnectionPool) -> None:
        while time.monotonic() < until and not stop.exists():
            try:
                with pool.connection() as connection:
                    connection.execute("INSERT INTO notes (thread) VALUES (%s)", [number])
                    connection.execute("SELECT count(*) FROM notes WHERE thread = %s", [number])
                done[number] += 1
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
                time.sleep(0.1)

    with ConnectionPool(
        conninfo, min_size=2, max_size=THREADS, open=True, check=ConnectionPool.check_connection
    ) as pool:
        threads = [threading.Thread(target=work, args=(one, pool)) for one in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(json.dumps({"done": sum(done), "errors": errors}))


if __name__ == "__main__":
    main()
