"""The console's container: what it may, and what it costs the tiers that it looks at."""

from __future__ import annotations

from contextlib import ExitStack

import httpx
import pytest
from docker.models.containers import Container

from tests.fix_host import Host
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll, run_in

OPS = "/etc/sluice/ops"


@pytest.fixture
def container(stack: Stack, console_url: str) -> Container:
    """Return the running container."""
    return stack.container("console")


def test_it_is_hardened_and_published_on_this_host_only(stack: Stack, container: Container) -> None:
    host = container.attrs["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert 0 < host["Memory"] <= 128 << 20
    assert container.attrs["Config"]["User"] == "10080:10080"
    assert not any("docker.sock" in str(mount) for mount in container.attrs["Mounts"])
    bound = [one for ports in host["PortBindings"].values() for one in ports]
    assert [one["HostIp"] for one in bound] == ["127.0.0.1"]
    assert stack.health(container) == "healthy"


@pytest.mark.parametrize(
    ("path", "readable"),
    [
        (f"{OPS}/ops.json", True),
        (f"{OPS}/operator.password", True),
        (f"{OPS}/monitor.password", False),
        ("/secrets", False),
        ("/out", False),
    ],
)
def test_it_reads_what_it_needs_to_look(container: Container, path: str, readable: bool) -> None:
    code, _ = run_in(container, ["python", "-c", f"open({path!r}).read()"])
    assert (code == 0) is readable


def test_a_hundred_pages_are_one_session_with_each_server(
    console_url: str, console: AdminConsole, sql: Sql, stack: Stack
) -> None:
    def of_the_console(replica: int) -> int:
        rows = console.show("CLIENTS", replica=replica)
        return sum(row["application_name"] == "sluice-console" for row in rows)

    with ExitStack() as opened:
        for _ in range(100):
            page = httpx.stream("GET", f"{console_url}/events", timeout=30)
            answer = opened.enter_context(page)
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert any(line == "event: path" for line in lines)
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice-console'"
        replicas = range(len(stack.containers("pgbouncer")))

        def found() -> list[int]:
            return [*map(of_the_console, replicas), int(sql.value(sessions))]

        # None for a moment after a look that took too long.
        poll(lambda: 0 not in found(), seconds=20, what="a session with each server")
        assert set(found()) == {1}


@pytest.mark.slow
def test_a_restart_of_pgbouncer_does_not_wait_for_the_console(
    console_url: str, host: Host, console: AdminConsole, stack: Stack
) -> None:
    code, printed = host.run("restart-pgbouncer")
    assert code == 0, printed
    assert "stay" not in printed

    def looks_again() -> bool:
        rows = console.show("CLIENTS")
        return any(row["application_name"] == "sluice-console" for row in rows)

    poll(looks_again, seconds=60, what="the console has a session with the new process")
