"""What the pool changes in psycopg_pool still fits the installed release."""

import pytest
from psycopg_pool import ConnectionPool
from psycopg_pool.pool import AddConnection, ShrinkPool

from app.pool.reservoir import RECONNECT_DELAY_MAX_SECONDS, Reservoir

PRIVATE = (
    *("_lock", "_pool", "_nconns", "_min_size", "_max_size", "_nconns_min", "_waiting"),
    *("_maybe_grow_pool", "_check_size", "_check_open_getconn", "_getconn_unchecked"),
    *("_return_connection", "_close_connection"),
)


@pytest.fixture
def reservoir() -> Reservoir:
    return Reservoir("", open=False, min_size=1, max_size=2)


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_it_relies_on_exists(name: str) -> None:
    assert hasattr(ConnectionPool("", open=False, min_size=1, max_size=2), name)


def test_reconnecting_never_waits_longer_than_a_second(
    reservoir: Reservoir, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    monkeypatch.setattr(
        ConnectionPool, "schedule_task", lambda _self, _task, delay: delays.append(delay)
    )
    reservoir.schedule_task(AddConnection(reservoir), 60.0)
    reservoir.schedule_task(ShrinkPool(reservoir), 60.0)
    assert delays == [RECONNECT_DELAY_MAX_SECONDS, 60.0]
