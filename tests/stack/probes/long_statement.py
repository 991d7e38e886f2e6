"""Prepare a statement just within a limit in bytes, and one beyond it.

Prints {"within", "beyond"}: the error of each, nothing when it succeeded.
"""

import json
import sys

from psycopg import Error

from tests.stack.probes.cancels import connect, replicas

LIMIT = int(sys.argv[1])


def error_of(length: int) -> str:
    """Return the error of a prepared statement of that many bytes."""
    try:
        with connect(replicas()[0]) as connection:
            connection.execute("SELECT 1 --" + "x" * (length - 11), prepare=True)
    except Error as error:
        return str(error)
    return ""


# A name, a length and the end of each text are in the message too.
print(json.dumps({"within": error_of(LIMIT - 100), "beyond": error_of(LIMIT)}))
