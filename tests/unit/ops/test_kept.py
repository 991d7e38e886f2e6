"""Sessions that outlive their use."""

from __future__ import annotations

import pytest

from infra.ops.clients.processes import Kept


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
