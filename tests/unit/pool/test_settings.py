"""Settings out of range are refused, all faults at once, each with its rule."""

from typing import Any

import pytest

from app.pool import ConnectionSettings, PoolSettings

PLACE: dict[str, Any] = {"host": "h", "port": 1, "dbname": "d", "user": "u", "password_file": "p"}


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="min_size") as caught:
        PoolSettings(min_size=9, max_size=4, max_waiting=0, timeout_seconds=0.0)
    lines = str(caught.value).splitlines()
    assert [line.split("=")[0] for line in lines] == [
        "pool.timeout_seconds",
        "pool.max_waiting",
        "pool.min_size",
    ]


def test_an_unbounded_queue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pool\.max_waiting=0 is below 1"):
        PoolSettings(max_waiting=0)


def test_a_connect_timeout_that_libpq_would_raise_is_refused() -> None:
    with pytest.raises(ValueError, match="connect_timeout_seconds=1 is below 2"):
        ConnectionSettings(**PLACE, sslmode="require", connect_timeout_seconds=1)


def test_verification_needs_a_certificate_authority() -> None:
    with pytest.raises(ValueError, match="sslrootcert is empty"):
        ConnectionSettings(**PLACE)


@pytest.mark.parametrize("name", ["sslmode", "load_balance_hosts"])
def test_an_unknown_choice_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='maybe' is unknown; use one of "):
        ConnectionSettings(**{**PLACE, "sslmode": "require", name: "maybe"})


def test_prepared_statements_can_be_switched_off() -> None:
    settings = ConnectionSettings(**PLACE, sslmode="require", prepare_threshold=None)
    assert settings.prepare_threshold is None
