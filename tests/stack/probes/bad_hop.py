"""A hop that is bad on purpose: bytes that come one at a time, late, or not to their end.

python -m tests.stack.probes.bad_hop client
    read through each kind of hop between a client and a replica; prints {kind: {"right": answers
    that were right, "errors": those that were errors, "wrong": all others}}
python -m tests.stack.probes.bad_hop server KIND
    stand in for PostgreSQL's socket until SIGTERM, then put it back; prints {"connections"}
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

DELAY_SECONDS = 0.2
# Of what comes at once so much is passed on byte by byte: the heads of messages are in it.
SLICED_BYTES = 256
# Of what the server sends on a connection, before it ends in the middle of it.
RESET_BYTES = 500, 60_000
DIRECTORY = Path("/run/postgresql")
SOCKET, ASIDE = DIRECTORY / ".s.PGSQL.5432", DIRECTORY / ".s.PGSQL.5432.aside"
KINDS = ("slices", "delay", "reset")


class Hop:
    """Takes what `listener` accepts on to what `connect` opens."""

    def __init__(
        self, kind: str, listener: socket.socket, connect: Callable[[], socket.socket]
    ) -> None:
        self._kind = kind
        self._listener = listener
        self._connect = connect
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = self._connect()
            except OSError:
                return
            self.connections += 1
            most = random.randint(*RESET_BYTES) if self._kind == "reset" else 0  # noqa: S311
            for source, target, limit in ((client, server, 0), (server, client, most)):
                pieces: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(target=_read, args=(source, pieces), daemon=True).start()
                threading.Thread(
                    target=self._write, args=(pieces, source, target, limit), daemon=True
                ).start()

    def _write(
        self,
        pieces: "SimpleQueue[tuple[float, bytes]]",
        source: socket.socket,
        target: socket.socket,
        limit: int,
    ) -> None:
        """Pass on until the end of either side, or of `limit` bytes; then end both."""
        sent = 0
        with contextlib.suppress(OSError):
            while (piece := pieces.get())[1]:
                came, data = piece
                if self._kind == "delay":
                    time.sleep(max(0.0, came + DELAY_SECONDS - time.monotonic()))
                if limit and sent + len(data) > limit:
                    target.sendall(data[: limit - sent])
                    break
                for part in _parts(data) if self._kind == "slices" else (data,):
                    target.sendall(part)
                sent += len(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _read(source: socket.socket, pieces: "SimpleQueue[tuple[float, bytes]]") -> None:
    data = b"more"
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        pieces.put((time.monotonic(), data))


def _parts(data: bytes) -> Iterator[bytes]:
    for start in range(min(SLICED_BYTES, len(data))):
        yield data[start : start + 1]
    if len(data) > SLICED_BYTES:
        yield data[SLICED_BYTES:]


# Rows that differ, in more than one packet.
QUERY = "SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, %s) AS n"
ROWS, TURNS = 500, 4


def ask(port: int, wanted: str) -> Counter[str]:
    """Read through one hop, a new connection each time."""
    from psycopg import Error

    from tests.stack.probes.cancels import connect

    counts = Counter(right=0, wrong=0, errors=0)
    for _ in range(TURNS):
        read = hashlib.sha256()
        try:
            with connect(("127.0.0.1", port)) as connection:
                for number, text in connection.execute(QUERY, [ROWS]):
                    read.update(f"{number} {text}\n".encode())
        except Error:
            counts["errors"] += 1
            continue
        counts["right" if read.hexdigest() == wanted else "wrong"] += 1
    return counts


def as_client() -> None:
    """Have a hop of each kind before a replica, and read through all at once."""
    from tests.stack.probes.cancels import replicas

    def connect() -> socket.socket:
        return socket.create_connection(replicas()[0], 10)

    wanted = hashlib.sha256()
    for number in range(1, ROWS + 1):
        md5 = hashlib.md5(str(number).encode()).hexdigest()  # noqa: S324  # PostgreSQL's function
        wanted.update(f"{number} {md5 * 4}\n".encode())
    ports = []
    for kind in KINDS:
        listener = socket.create_server(("127.0.0.1", 0))
        Hop(kind, listener, connect)
        ports.append(listener.getsockname()[1])
    with ThreadPoolExecutor(len(KINDS)) as threads:
        found = threads.map(ask, ports, [wanted.hexdigest()] * len(KINDS))
    print(json.dumps(dict(zip(KINDS, found, strict=True))))


def as_server(kind: str) -> None:
    """Take the place of PostgreSQL's socket, which is moved aside meanwhile."""

    def connect() -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(ASIDE))
        return one

    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    SOCKET.rename(ASIDE)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(SOCKET))
            os.chmod(SOCKET, ASIDE.stat().st_mode)
            listener.listen(128)
            hop = Hop(kind, listener, connect)
            print("stands in", flush=True)
            ending.wait()
    finally:
        ASIDE.rename(SOCKET)
    print(json.dumps({"connections": hop.connections}))


if __name__ == "__main__":
    as_client() if sys.argv[1] == "client" else as_server(sys.argv[2])
