"""Processes by the names that Docker has for them, and sessions that outlive their use."""

from __future__ import annotations

import socket

import pytest

from infra.ops.clients.processes import Kept, resolve


class Session:
    """Knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_session_is_used_again_and_one_with_another_peer_is_another() -> None:
    kept = Kept[Session]()
    with kept.session("a", Session) as first, kept.session("b", Session) as other:
        assert first is not other
    with kept.session("a", Session) as again:
        assert again is first
    assert not first.closed


def test_a_session_that_failed_is_closed_and_made_anew() -> None:
    kept = Kept[Session]()
    with pytest.raises(TimeoutError), kept.session("a", Session) as first:
        raise TimeoutError
    assert first.closed
    with kept.session("a", Session) as second:
        assert second is not first


def test_a_connect_that_fails_leaves_nothing() -> None:
    kept = Kept[Session]()

    def refuse() -> Session:
        raise ConnectionError

    with pytest.raises(ConnectionError), kept.session("a", refuse):
        pass
    with kept.session("a", Session) as first:
        assert not first.closed


def test_sessions_with_peers_that_are_gone_are_closed() -> None:
    kept = Kept[Session]()
    with kept.session("a", Session) as first, kept.session("b", Session) as other:
        pass
    kept.close(but=["a"])
    assert (first.closed, other.closed) == (False, True)
    kept.close()
    assert first.closed


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ("sluice-pgbouncer-2.sluice_pool", "sluice-pgbouncer-2"),
        ("sluice_pgbouncer.2.0a1b2c3d4e5f6g7h8i9j0k1l2.sluice_pool", "sluice_pgbouncer.2"),
    ],
)
def test_a_container_has_its_name_and_a_task_of_swarm_that_of_its_slot(
    monkeypatch: pytest.MonkeyPatch, known: str, shown: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("10.0.1.4", 6432))])
    monkeypatch.setattr(socket, "gethostbyaddr", lambda _: (known, [], []))
    (found,) = resolve("pgbouncer", 6432)
    assert found.name == shown
