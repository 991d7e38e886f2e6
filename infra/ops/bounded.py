"""Connections of which every call ends in time, also when the peer is frozen."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg


class TimedOutError(Exception):
    """The peer did not answer in time; the connection is of no use any more."""


@contextmanager
def bounded(connection: psycopg.Connection[Any], seconds: float, what: str) -> Iterator[None]:
    """End the socket of `connection` when the block takes longer than `seconds`.

    Raises:
        TimedOutError: in place of the driver's error, when that happened.

    """
    expired = threading.Event()
    timer = threading.Timer(seconds, _cutter(connection, expired))
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if expired.is_set():
            raise TimedOutError(f"no answer to {what} within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def _cutter(connection: psycopg.Connection[Any], expired: threading.Event) -> Callable[[], None]:
    def cut() -> None:
        expired.set()
        # A dup: the driver closes its own descriptor, whose number may then be reused.
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as peer,
        ):
            peer.shutdown(socket.SHUT_RDWR)

    return cut
