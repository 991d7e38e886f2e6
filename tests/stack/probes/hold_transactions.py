"""Leave transactions idle on every replica: begin, ask once, do nothing, commit, and again.

    python -m tests.stack.probes.hold_transactions COUNT SECONDS

COUNT connections to each, for SECONDS or until SIGTERM. Prints {"held": how many transactions}.
"""

import json
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from psycopg import Error

from tests.stack.probes.cancels import Address, connect, replicas

# Below the role's limit of a pause in a transaction; not all of them end at once.
PAUSE_SECONDS = 3.0, 4.5

count, seconds = sys.argv[1:]
until = time.monotonic() + float(seconds)
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())


def is_over() -> bool:
    """Return True after the seconds, or the signal."""
    return ended.is_set() or time.monotonic() >= until


def hold(address: Address) -> int:
    """Hold one transaction after the other; return how many."""
    held = 0
    while not is_over():
        try:
            with connect(address) as connection:
                while not is_over():
                    with connection.transaction():
                        connection.execute("SELECT 1")
                        held += 1
                        ended.wait(random.uniform(*PAUSE_SECONDS))  # noqa: S311  # no secret
        except Error:
            # The queue for a server connection was too long.
            continue
    return held


holders = [one for one in replicas() for _ in range(int(count))]
with ThreadPoolExecutor(len(holders)) as threads:
    print(json.dumps({"held": sum(threads.map(hold, holders))}))
