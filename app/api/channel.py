"""What the supervisor and a serving process say to each other: one datagram a message.

From the serving process: `ready`, `failed REASON`, `restart`. To it: `restarted`,
`refused REASON`, `retire`, or `retire surplus` where no other takes its slot. Only the standard
library: the supervisor uses it.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress

READY = "ready"
FAILED = "failed"
RESTART = "restart"
RESTARTED = "restarted"
REFUSED = "refused"
RETIRE = "retire"
SURPLUS = "surplus"
MESSAGE_BYTES_MAX = 4096


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends; message boundaries are kept, and an end that dies is noticed."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, word: str, text: str = "") -> None:
    """Send one message; one that the other side no longer takes is dropped."""
    message = f"{word} {text}".strip().encode("utf-8", "replace")[:MESSAGE_BYTES_MAX]
    with suppress(OSError):
        end.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(end: socket.socket) -> Iterator[tuple[str, str]]:
    """Yield every message that is there now, as word and text."""
    with suppress(OSError):
        while message := end.recv(MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT):
            yield _parsed(message)


def wait(end: socket.socket) -> tuple[str, str] | None:
    """Return the next message; None once the other side is gone."""
    try:
        message = end.recv(MESSAGE_BYTES_MAX)
    except OSError:
        return None
    return _parsed(message) if message else None


def is_closed(end: socket.socket) -> bool:
    """Return True if the other side is gone and everything it sent has been received."""
    try:
        return not end.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _parsed(message: bytes) -> tuple[str, str]:
    word, _, text = message.decode("utf-8", "replace").partition(" ")
    return word, text
