"""The poll tells silence, data and an end apart."""

import select
import socket
from collections.abc import Iterator

import pytest

from app.pool.connection import GONE, SocketPoll

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_a_silent_peer_gives_no_event(pair: Pair) -> None:
    assert SocketPoll(pair[0].fileno()).events() == 0


def test_unread_data_is_readable_and_not_gone(pair: Pair) -> None:
    pair[1].sendall(b"x")
    events = SocketPoll(pair[0].fileno()).events()
    assert events & select.POLLIN
    assert not events & GONE


def test_a_peer_that_stopped_sending_is_gone(pair: Pair) -> None:
    pair[1].shutdown(socket.SHUT_WR)
    assert SocketPoll(pair[0].fileno()).events() & GONE


def test_a_closed_descriptor_is_gone(pair: Pair) -> None:
    polled = SocketPoll(pair[0].fileno())
    pair[0].close()
    assert polled.events() & GONE
