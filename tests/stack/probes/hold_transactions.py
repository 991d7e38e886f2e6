"""Leave transactions idle on every replica: begin, ask once, do nothing, commit, and again.

    python -m tests.stack.probes.hold_transactions COUNT SECONDS

COUNT connections to each, for SECONDS. Prints {"held": how many transactions}.
"""

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from psycopg import Error

from tests.stack.probes.cancels import Address, connect, replicas

# Below the role's limit of a pause in a transaction; not all of them end at once.
PAUSE_SECONDS = 3.0, 4.5

count, seconds = sys.argv[1:]
until = time.monotonic() + float(seconds)


def hold(address: Address) -> int:
    """Hold one transaction after the other; return how many."""
    held = 0
    while time.monotonic() < until:
        try:
            with connect(address) as connection:
                while time.monotonic() < until:
                    with connection.transaction():
                        connection.execute("SELECT 1")
                        held += 1
                        time.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311  # no secret
        except Error:
            # The queue for a server connection was too long.
            continue
    return held


holders = [one for one in replicas() for _ in range(int(count))]
with ThreadPoolExecutor(len(holders)) as threads:
    print(json.dumps({"held": sum(threads.map(hold, holders))}))
