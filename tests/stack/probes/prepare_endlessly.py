"""Prepare one statement after the other through ADDRESS and close none, until that ends.

Prints {"prepared": how many, "error": how it ended}.
"""

import json
import sys

from psycopg import Error

from tests.stack.probes.cancels import DATABASE, connect

# Not more than a replica with 1 GB could hold.
STATEMENTS_MAX, BYTES = 20_000, 100_000

prepared, error = 0, ""
try:
    with connect((sys.argv[1], DATABASE["port"])) as connection:
        connection.prepared_max = None
        for prepared in range(STATEMENTS_MAX):
            connection.execute(f"SELECT {prepared} --" + "x" * BYTES, prepare=True)
except Error as failure:
    error = str(failure)
print(json.dumps({"prepared": prepared, "error": error}))
