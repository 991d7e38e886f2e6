"""Ask one replica for long results and take nothing of them, on as many connections as it has.

    python -m tests.stack.probes.unread ADDRESS COUNT

Then ask for something short there, again and again. Prints {"errors": what that was told meanwhile,
"seconds": until it was answered}.
"""

import json
import sys
import time

import psycopg

from tests.stack.probes.cancels import DATABASE, connect
from tests.stack.probes.malformed import Client, message

LONG = b"SELECT repeat('x', 1000000) FROM generate_series(1, 1000)"
SECONDS_MAX = 60.0


def main() -> None:
    """Hold all of its server connections, and wait for one."""
    readers = [Client() for _ in range(int(sys.argv[2]))]
    for one in readers:
        one.log_in()
        one.send(message(b"Q", LONG + b"\0"))
        # It has begun.
        one.receive()
    began = time.monotonic()
    errors: list[str] = []
    while time.monotonic() < began + SECONDS_MAX:
        try:
            with connect((sys.argv[1], int(DATABASE["port"]))) as connection:
                connection.execute("SELECT 1")
            break
        except psycopg.OperationalError as error:
            errors.append(str(error).strip().splitlines()[-1])
    print(json.dumps({"errors": errors, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
