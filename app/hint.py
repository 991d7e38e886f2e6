"""Hints: the api tells every worker that there is something to claim, by a UDP datagram.

A hint saves a submission the wait for the next poll, and nothing depends on it: it has no content
and no authority, a lost one is covered by polling, and a false one costs one claim. LISTEN would
need a server connection for each worker; transaction pooling does not carry it.
"""

import math
import socket
import threading
import time
from collections.abc import Callable

from app.log import get_logger
from app.settings import HintSettings

# So long the api keeps the addresses of the workers, or that there are none.
ADDRESSES_SECONDS = 2.0
# A worker takes one hint in so much time, however many arrive: 50 claims a second at most.
HINT_SECONDS = 0.02
# The kernel rounds it up to its least, some datagrams; of those that wait one is as good as all.
BUFFER_BYTES = 1
CLOSE_SECONDS = 1.0
log = get_logger("app.hint")

Address = tuple[str, int]


class HintSender:
    """Sends from a thread of its own, which also looks the workers up: `send` never waits."""

    def __init__(self, settings: HintSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._wanted = threading.Event()
        self._closed = False
        self._addresses: list[Address] = []
        self._looked_up_at = -math.inf
        self._unknown: str | None = None
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def send(self) -> None:
        """Hint to every worker soon; hints that wait for the thread become one."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread; one that waits for the name server is left behind."""
        self._closed = True
        self._wanted.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while True:
                self._wanted.wait()
                self._wanted.clear()
                if self._closed:
                    return
                self._note(self._send(sender))

    def _send(self, sender: socket.socket) -> str | None:
        """Send one hint to each worker; return the last fault, None when there was none."""
        fault = self._look_up()
        for address in self._addresses:
            try:
                sender.sendto(b"", address)
            except OSError as error:
                fault = str(error)
        return fault

    def _look_up(self) -> str | None:
        """Look the workers up where that is due; return why none are known, None when some are."""
        if self._clock() - self._looked_up_at < ADDRESSES_SECONDS:
            return self._unknown
        self._looked_up_at = self._clock()
        self._addresses, self._unknown = [], None
        try:
            found = socket.getaddrinfo(
                self._settings.host,
                self._settings.port,
                family=socket.AF_INET,
                type=socket.SOCK_DGRAM,
            )
        except OSError as error:
            self._unknown = str(error)
        else:
            self._addresses = [(str(entry[4][0]), int(entry[4][1])) for entry in found]
        return self._unknown

    def _note(self, fault: str | None) -> None:
        """Log a fault when it begins, changes or ends."""
        if fault == self._fault:
            return
        self._fault = fault
        if fault is None:
            log.info("hints reach the workers again")
        else:
            log.warning("no hints to the workers: they poll", host=self._settings.host, why=fault)


class HintListener:
    """Calls `on_hint` for hints that arrive, at most once in HINT_SECONDS."""

    def __init__(self, settings: HintSettings, on_hint: Callable[[], None]) -> None:
        self._settings = settings
        self._on_hint = on_hint
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen from now on; where that fails, warn and leave the work to polling."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self._socket.bind((self._settings.host, self._settings.port))
        except OSError as error:
            log.warning("no hints are heard: the worker polls", why=str(error))
            return
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._thread.is_alive():
            # Ends its wait for a datagram.
            self._socket.sendto(b"", ("127.0.0.1", self.port))
            self._thread.join(CLOSE_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        while True:
            self._socket.recv(1)
            if self._stop.is_set():
                return
            self._on_hint()
            self._stop.wait(HINT_SECONDS)
