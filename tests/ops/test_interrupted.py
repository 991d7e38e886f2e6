"""Operator commands of which the whole caller is gone: nothing fails, and the next run finishes."""

from __future__ import annotations

import signal

import pytest

from tests.faults.oracle import check_no_failure
from tests.fix_faults import MakeLoad, wait_for_traffic
from tests.fix_host import Host
from tests.fix_stack import Stack, poll, run_in

# From the death of the caller until a replica that it had taken out serves again.
BACK_SECONDS = 25.0
RESTART, POSTGRES = "restart-pgbouncer", "restart-postgres"


def serve(stack: Stack, replicas: int) -> bool:
    """Return True if so many replicas run and each passes a query."""
    poolers = stack.containers("pgbouncer")
    return len(poolers) == replicas and all(run_in(one, ["healthcheck"])[0] == 0 for one in poolers)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize(
    ("end", "line", "time"),
    [
        (signal.SIGKILL, "clients leave", 1),
        (signal.SIGKILL, "restarting", 2),
        (signal.SIGINT, "clients leave", 2),
    ],
)
def test_a_rolling_restart_that_loses_its_caller_leaves_no_replica_out(
    stack: Stack, host: Host, make_load: MakeLoad, end: signal.Signals, line: str, time: int
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        host.end_at(line, end, RESTART, time=time)
        poll(lambda: serve(stack, 2), seconds=BACK_SECONDS, what="both replicas serve")
    check_no_failure(load)


@pytest.mark.usefixtures("whole_again")
def test_the_next_rolling_restart_takes_over_at_once(
    stack: Stack, host: Host, make_load: MakeLoad
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        host.end_at("restarting", signal.SIGKILL, RESTART)
        code, output = host.run(RESTART)
        assert code == 0, output
        assert serve(stack, 2)
    check_no_failure(load)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_restart_of_postgres_that_loses_its_caller_leaves_no_pause(
    stack: Stack, host: Host, make_load: MakeLoad
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        host.end_at("paused: clients wait", signal.SIGKILL, POSTGRES, "--compiled")
        poll(lambda: serve(stack, 2), seconds=BACK_SECONDS, what="both replicas serve")
        code, output = host.run(POSTGRES, "--compiled")
        assert code == 0, output
    check_no_failure(load)
