"""The poll tells silence, data and an end apart; statements say what they are for."""

import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.sql import SQL, Composable

from app.pool.connection import GONE, MarkedCursor, SocketPoll

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


@pytest.mark.parametrize("query", ["SELECT 1", b"SELECT 1", SQL("SELECT {}").format(1)])
def test_a_statement_of_any_kind_begins_with_the_name_of_its_work(query: Any) -> None:
    cursor: Any = SimpleNamespace(connection=SimpleNamespace(work="read %s*/"))
    marked = MarkedCursor._marked(cursor, query)
    if isinstance(marked, Composable):
        marked = marked.as_string(None)
    text = marked.decode() if isinstance(marked, bytes) else marked
    # The name can neither end the comment nor be a placeholder.
    assert text == "/*action='read--s--'*/ SELECT 1"


def test_a_statement_outside_of_any_work_stays_as_it_is() -> None:
    cursor: Any = SimpleNamespace(connection=SimpleNamespace(work=""))
    assert MarkedCursor._marked(cursor, "SELECT 1") == "SELECT 1"
