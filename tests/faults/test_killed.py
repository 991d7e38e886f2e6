"""Connections and processes that end without warning."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from docker.models.containers import Container

from tests.faults.oracle import (
    check_answers,
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_recovery,
    check_writes,
)
from tests.fix_api import ASSESSMENTS, Api
from tests.fix_faults import MakeLoad, hold, killed, wait_for_traffic
from tests.fix_host import UseHop
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll, run_in

BACKENDS_A_SECOND, SECONDS = 2, 10
END_RANDOM_BACKENDS = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
    " WHERE usename IN ('risk_api', 'risk_worker') ORDER BY random()"
    f" LIMIT {BACKENDS_A_SECOND}) AS victims"
)


@pytest.mark.slow
def test_ending_two_random_backends_a_second_reaches_no_caller(
    sql: Sql, make_load: MakeLoad, deadline_seconds: float
) -> None:
    ended = 0
    with make_load() as load:
        wait_for_traffic(load)
        for _ in range(SECONDS):
            started = time.monotonic()
            ended += len(sql.rows(END_RANDOM_BACKENDS))
            hold(max(0.0, 1 - (time.monotonic() - started)))
        hold(2)
    assert ended >= SECONDS, f"only {ended} backends were ended"
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql)


def test_a_hundred_requests_succeed_after_the_pooler_cut_every_idle_connection(
    stack: Stack, api: Api, console: AdminConsole
) -> None:
    def clients() -> int:
        return sum(
            row["database"] == "risk"
            for replica in range(len(stack.containers("pgbouncer")))
            for row in console.show("CLIENTS", replica=replica)
        )

    poll(lambda: clients() > 0, seconds=10, what="the api holds connections")
    console.on_all("KILL risk")
    console.on_all("RESUME risk")
    answers = [
        api.http.get(f"{ASSESSMENTS}/00000000-0000-0000-0000-000000000000").status_code
        for _ in range(100)
    ]
    assert answers == [404] * 100


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_one_killed_pooler_is_felt_by_its_own_requests_only(
    stack: Stack, sql: Sql, make_load: MakeLoad, deadline_seconds: float
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        with killed(stack.containers("pgbouncer")[:1]):
            died = time.monotonic()
            hold(10)
        hold(5)
    check_answers(load.samples)
    check_deadlines(load, deadline_seconds)
    check_recovery(load, died, 2)
    check_writes(load, sql)
    check_nothing_left(sql)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_client_that_fills_the_memory_of_one_pooler_is_felt_by_its_own_requests_only(
    stack: Stack, sql: Sql, probe: Probe, make_load: MakeLoad, deadline_seconds: float
) -> None:
    victim, *others = stack.containers("pgbouncer")
    restarts = victim.attrs["RestartCount"]
    network = victim.attrs["NetworkSettings"]["Networks"][f"{stack.project}_pool"]
    before = [one.attrs["State"]["StartedAt"] for one in others]
    with make_load() as load:
        wait_for_traffic(load)
        prepared = probe("prepare_endlessly", network["IPAddress"])["prepared"]
        died = time.monotonic()
        hold(10)
    victim.reload()
    for one in others:
        one.reload()
    assert prepared > 100
    assert victim.attrs["RestartCount"] == restarts + 1
    assert [one.attrs["State"]["StartedAt"] for one in others] == before
    check_answers(load.samples)
    check_deadlines(load, deadline_seconds)
    check_recovery(load, died, 2)
    check_writes(load, sql)
    check_nothing_left(sql)


def address(container: Container) -> str:
    """Return a container's address where PgBouncer reaches it; none while it does not run."""
    container.reload()
    networks = container.attrs["NetworkSettings"]["Networks"]
    (address,) = [one["IPAddress"] for name, one in networks.items() if name.endswith("_db")]
    return str(address)


@contextmanager
def address_taken(stack: Stack, victim: Container) -> Iterator[None]:
    """Kill a container, let another one take its address, start it again at the block's end."""
    taken = address(victim)
    squatters: list[Container] = []
    try:
        with killed([victim]):
            # Docker gives out the lowest free address, which can be one below.
            while not squatters or address(squatters[-1]) != taken:
                assert len(squatters) < 10, f"nobody was given {taken}"
                squatters.append(squatter(stack, victim))
            yield
        assert address(victim) != taken
    finally:
        for one in squatters:
            one.remove(force=True)


def squatter(stack: Stack, victim: Container) -> Container:
    """Start a container that only takes an address beside the victim."""
    return stack.client.containers.run(
        str(victim.attrs["Image"]),
        ["300"],
        entrypoint="sleep",
        network=f"{stack.project}_db",
        detach=True,
    )


@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("hop", ["tls", pytest.param("socket", marks=pytest.mark.slow)])
def test_a_server_that_comes_back_under_another_address_is_found_within_ten_seconds(
    stack: Stack, api: Api, console: AdminConsole, use_hop: UseHop, hop: str
) -> None:
    use_hop(hop)
    poolers = stack.containers("pgbouncer")
    # A lookup just before, so that the resolver has an answer that it could still believe.
    console.on_all("RECONNECT")
    poll(lambda: all(reaches_server(one) for one in poolers), seconds=10, what="reconnected")
    with address_taken(stack, server := stack.container("postgres")):
        # Long enough for lookups of a name that is away: that answer must not be kept either.
        hold(5)
    poll(lambda: run_in(server, ["healthcheck"])[0] == 0, seconds=60, what="the server is ready")
    poll(
        lambda: (
            all(reaches_server(one) for one in poolers)
            and api.http.get("/health/ready").status_code == 200
        ),
        seconds=10,
        what="every PgBouncer and the api reach the server at its new address",
    )


def reaches_server(pooler: Container) -> bool:
    """Return True if a query through this PgBouncer is answered."""
    return run_in(pooler, ["healthcheck"])[0] == 0


def test_a_killed_dns_forwarder_is_started_again(stack: Stack) -> None:
    pooler = stack.container("pgbouncer")
    # Some of the processes end before they are looked at.
    found = ["sh", "-c", "grep -lx dnsmasq /proc/[0-9]*/comm 2>/dev/null; true"]
    _, before = run_in(pooler, found)
    assert before, "no forwarder runs"
    assert run_in(pooler, ["sh", "-c", f"kill -9 {before.split('/')[2]}"])[0] == 0
    after = poll(
        lambda: (now := run_in(pooler, found)[1]) != before and now,
        seconds=10,
        what="the forwarder runs again",
    )
    assert after
    assert run_in(pooler, ["getent", "hosts", "postgres"])[0] == 0
