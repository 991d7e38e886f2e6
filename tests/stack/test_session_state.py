"""What a client leaves in its session: it reaches others, unless PgBouncer resets always."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole

# More clients than a replica has server connections for them.
CLIENTS = "3"
PREPARED = 200


@pytest.fixture
def put_back(console: AdminConsole) -> Iterator[None]:
    """Have PgBouncer's own configuration and new server connections afterwards."""
    yield
    console.on_all("RELOAD")
    console.on_all("RECONNECT")


@pytest.mark.usefixtures("put_back")
def test_nothing_of_a_session_reaches_another_client_when_each_is_reset(
    probe: Probe, console: AdminConsole
) -> None:
    console.on_all("SET server_reset_query_always = 0")
    shared = probe("session_state", CLIENTS)
    assert shared["prepared"] == PREPARED
    # All of it is to be found, or the next look would prove nothing.
    assert min(shared["found"].values()) > 0, shared
    console.on_all("RECONNECT")
    console.on_all("SET server_reset_query_always = 1")
    reset = probe("session_state", CLIENTS)
    assert reset["seen"] > 1
    assert set(reset["found"].values()) == {0}, reset
    assert reset["prepared"] == PREPARED
