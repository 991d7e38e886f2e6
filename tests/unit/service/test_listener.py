"""A listener on a socket that processes share: it leaves some of a burst to the others."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
import uvloop

from app import server as server_module
from app.server import Listener

BURST = 10


class Made(asyncio.Protocol):
    """Counts the connections that were made."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count one."""
        Made.count += 1
        assert isinstance(transport, asyncio.Transport)
        transport.close()


class Short(socket.socket):
    """A listening socket whose process has no file left for the first connection."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, object]:
        """Fail once."""
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


def _queue(listening: socket.socket, stack: ExitStack) -> None:
    listening.bind(("127.0.0.1", 0))
    listening.listen(BURST)
    for _ in range(BURST):
        stack.enter_context(socket.create_connection(listening.getsockname(), 5))


def _run(listening: socket.socket, body: Callable[[Listener], Awaitable[None]]) -> None:
    async def main() -> None:
        listener = Listener(asyncio.get_running_loop(), listening, Made)
        try:
            await body(listener)
        finally:
            listener.close()

    Made.count = 0
    with ExitStack() as stack:
        stack.enter_context(listening)
        _queue(listening, stack)
        uvloop.run(main())


async def _until(count: int) -> None:
    async with asyncio.timeout(10):
        while Made.count < count:
            await asyncio.sleep(0)


def test_of_a_burst_one_connection_is_taken_a_turn() -> None:
    taken = []

    async def turns(_listener: Listener) -> None:
        while Made.count < BURST:
            taken.append(Made.count)
            await asyncio.sleep(0)

    _run(socket.socket(), turns)
    assert set(taken) == set(range(BURST))


def test_a_closed_listener_leaves_the_rest_in_the_queue() -> None:
    async def close_after_one(listener: Listener) -> None:
        await _until(1)
        listener.close()
        listener.close()
        await asyncio.sleep(0.05)
        # Those that were being made when it closed are served all the same.
        assert Made.count < BURST

    _run(socket.socket(), close_after_one)


def test_without_a_file_left_it_pauses_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SHORT_SECONDS", 0.05)

    async def all_of_them(_listener: Listener) -> None:
        await _until(BURST)

    short = Short()
    _run(short, all_of_them)
    assert not short.refusals
