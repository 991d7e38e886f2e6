"""Open COUNT connections to ADDRESS that say nothing, after a TLS request where told so.

    python -m tests.stack.probes.half_open ADDRESS COUNT [tls]

Meanwhile log in there again and again. Prints {"opened", "refused": logins that failed,
"refused_seconds": from the first of them to the last, "errors": what they said,
"closed_seconds": until every silent connection was closed}.
"""

import json
import select
import socket
import struct
import sys
import threading
import time

from psycopg import Error

from tests.stack.probes.cancels import DATABASE, connect

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
SECONDS_MAX = 60.0

address, count = sys.argv[1], int(sys.argv[2])
place = (address, int(DATABASE["port"]))
first = SSL_REQUEST if sys.argv[3:] == ["tls"] else b""


def open_all() -> list[socket.socket]:
    """Open them at once."""
    opened = []
    for _ in range(count):
        one = socket.create_connection(place, 10)
        one.sendall(first)
        opened.append(one)
    return opened


def closed(sockets: list[socket.socket]) -> float:
    """Wait for the end of all; return how long it took."""
    began = time.monotonic()
    left = set(sockets)
    poller = select.poll()
    by_number = {one.fileno(): one for one in sockets}
    for number in by_number:
        poller.register(number, select.POLLIN)
    while left and time.monotonic() < began + SECONDS_MAX:
        for number, _ in poller.poll(1000):
            one = by_number[number]
            try:
                ended = not one.recv(16)
            except OSError:
                ended = True
            if ended:
                poller.unregister(number)
                left.discard(one)
    return time.monotonic() - began


silent = open_all()
ending = threading.Event()
failed: list[tuple[float, str]] = []
tried = [0]


def log_in() -> None:
    """Log in until told to stop."""
    while not ending.is_set():
        began = time.monotonic()
        tried[0] += 1
        try:
            with connect(place) as connection:
                connection.execute("SELECT 1")
        except Error as error:
            failed.append((began, str(error)))
        time.sleep(0.05)


client = threading.Thread(target=log_in)
client.start()
seconds = closed(silent)
ending.set()
client.join()
print(
    json.dumps(
        {
            "opened": len(silent),
            "tried": tried[0],
            "refused": len(failed),
            "refused_seconds": failed[-1][0] - failed[0][0] if failed else 0.0,
            "errors": sorted({text.strip().splitlines()[-1] for _, text in failed}),
            "closed_seconds": seconds,
        }
    )
)
