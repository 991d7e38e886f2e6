"""Prepare one statement of 100,000 bytes after the other through ADDRESS and close none.

    python -m tests.stack.probes.prepare_endlessly ADDRESS [COUNT]

With a count it then goes on with short ones. Prints {"prepared": how many, "error": how the
connection ended}.
"""

import json
import sys
import time

from psycopg import Error

from tests.stack.probes.cancels import DATABASE, connect

# Not more than a replica with 2 GB could hold.
STATEMENTS_MAX, BYTES, STAYS_SECONDS = 20_000, 100_000, 60.0

address, *given = sys.argv[1:]
count = int(given[0]) if given else STATEMENTS_MAX
prepared, error = 0, ""
try:
    with connect((address, DATABASE["port"])) as connection:
        connection.prepared_max = None
        while prepared < count:
            connection.execute(f"SELECT {prepared} --" + "x" * BYTES, prepare=True)
            prepared += 1
        until = time.monotonic() + STAYS_SECONDS
        while time.monotonic() < until:
            connection.execute("SELECT 1", prepare=False)
            time.sleep(0.2)
except Error as failure:
    error = str(failure)
print(json.dumps({"prepared": prepared, "error": error}))
