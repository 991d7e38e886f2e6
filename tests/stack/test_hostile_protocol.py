"""PgBouncer's port as nobody should use it: no login, half of one, bytes that are no message."""

from __future__ import annotations

from typing import Any

import pytest
from docker.models.containers import Container

from tests.faults.oracle import check_no_failure
from tests.fix_faults import MakeLoad, wait_for_traffic
from tests.fix_probe import Probe
from tests.fix_stack import Stack

# What a busy machine takes beyond a timeout of PgBouncer, which looks at them every third second.
SLACK_SECONDS = 4.0


def address(container: Container, stack: Stack) -> str:
    """Return its address on the network of the clients."""
    networks = container.attrs["NetworkSettings"]["Networks"]
    return str(networks[f"{stack.project}_pool"]["IPAddress"])


def lives(containers: list[Container]) -> list[tuple[str, int]]:
    """Return since when each container runs, and how often it was started again."""
    for one in containers:
        one.reload()
    return [(one.attrs["State"]["StartedAt"], one.attrs["RestartCount"]) for one in containers]


def test_what_is_no_message_is_closed_and_reaches_nobody_else(
    stack: Stack, probe: Probe, settings: dict[str, str]
) -> None:
    poolers = stack.containers("pgbouncer")
    before = lives(poolers)
    found: dict[str, Any] = probe("malformed", address(poolers[0], stack))
    assert found["open"] == []
    # A statement that does not end has a server connection, as a transaction has.
    names = ("PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS", "API_QUERY_TIMEOUT_SECONDS")
    latest = max(float(settings[name]) for name in names) + SLACK_SECONDS
    assert {name for name, (_, seconds) in found["ended"].items() if seconds > latest} == set()
    assert found["ended"]["plaintext"][0] == "SSL required"
    after_tls = "received unencrypted data after SSL request"
    assert found["ended"]["plaintext after the request for TLS"][0] == after_tls
    assert found["logged_in"] == {"in slices": "42", "after GSSAPI": "42"}
    assert found["beside"] > 0
    assert found["failed"] == 0
    assert lives(poolers) == before


@pytest.mark.parametrize("kind", ["silent", pytest.param("tls", marks=pytest.mark.slow)])
def test_two_hundred_half_open_connections_keep_nobody_out_and_are_closed(
    stack: Stack, probe: Probe, settings: dict[str, str], kind: str
) -> None:
    found = probe("half_open", address(stack.container("pgbouncer"), stack), "200", kind)
    assert found["opened"] == 200
    assert found["tried"] > 10
    assert found["errors"] == []
    timeout = float(settings["PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS"])
    assert timeout - 1 <= found["closed_seconds"] <= timeout + SLACK_SECONDS


def test_a_replica_full_of_silent_connections_takes_logins_again_after_the_login_timeout(
    stack: Stack, probe: Probe, settings: dict[str, str], make_load: MakeLoad
) -> None:
    """Meanwhile those that are logged in are served, and new logins find another replica."""
    count = int(settings["PGBOUNCER_MAX_CLIENT_CONNECTIONS"]) + 100
    with make_load(threads=4) as load:
        wait_for_traffic(load)
        found = probe("half_open", address(stack.container("pgbouncer"), stack), str(count))
        wait_for_traffic(load, len(load.of()) + 50)
    check_no_failure(load)
    assert found["opened"] == count
    assert found["refused"] > 0
    assert all("no more connections allowed" in one for one in found["errors"])
    timeout = float(settings["PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS"])
    assert found["refused_seconds"] <= timeout + SLACK_SECONDS


def test_clients_that_take_nothing_of_their_results_give_their_server_connections_back(
    stack: Stack, probe: Probe, settings: dict[str, str]
) -> None:
    poolers = stack.containers("pgbouncer")
    before = lives(poolers)
    names = ("PGBOUNCER_INTERACTIVE_POOL_SIZE", "PGBOUNCER_INTERACTIVE_RESERVE_SIZE")
    count = sum(int(settings[name]) for name in names)
    found = probe("unread", address(poolers[0], stack), str(count))
    # TCP's own timeout of what nobody takes comes first.
    assert found["seconds"] <= float(settings["API_QUERY_TIMEOUT_SECONDS"]) + SLACK_SECONDS
    assert all("query_wait_timeout" in one for one in found["errors"])
    assert lives(poolers) == before
