"""The way from PgBouncer to PostgreSQL: changed live, with TLS and without, and lost for a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.oracle import check_no_failure, check_nothing_left, check_writes
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_host import EnvFile, Host, UseHop
from tests.fix_ops import Commands
from tests.fix_sql import AdminConsole, Row, Sql
from tests.fix_stack import Stack, poll, run_in

SOCKET = "/run/postgresql/.s.PGSQL.5432"


def servers(stack: Stack, console: AdminConsole) -> list[Row]:
    """Return every server connection of every replica."""
    replicas = range(len(stack.containers("pgbouncer")))
    return [row for replica in replicas for row in console.show("SERVERS", replica=replica)]


def wait_until_all_use(hop: str, stack: Stack, console: AdminConsole) -> None:
    """Return once every server connection goes this way; those in use at the change end first."""

    def is_of_hop(row: Row) -> bool:
        if hop == "socket":
            return row["addr"] == "unix" and not row["tls"]
        return row["addr"] != "unix" and row["tls"].startswith("TLSv1.3")

    poll(
        lambda: (found := servers(stack, console)) and all(is_of_hop(row) for row in found),
        seconds=30,
        what=f"every server connection uses the hop {hop}",
    )


@contextmanager
def socket_away(stack: Stack) -> Iterator[None]:
    """Give PostgreSQL's socket another name for the block, so that no login finds it."""
    server = stack.container("postgres")
    assert run_in(server, ["mv", SOCKET, f"{SOCKET}.away"])[0] == 0
    try:
        yield
    finally:
        assert run_in(server, ["mv", f"{SOCKET}.away", SOCKET])[0] == 0


@pytest.mark.usefixtures("whole_again")
def test_the_hop_is_changed_live_and_back_without_a_failed_request(
    stack: Stack,
    sql: Sql,
    ops: Commands,
    console: AdminConsole,
    make_load: MakeLoad,
    use_hop: UseHop,
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        for hop in ("tls", "socket"):
            use_hop(hop)
            wait_until_all_use(hop, stack, console)
            assert ops.run("plan", "--json").document["drift"] == []
            hold(2)
    check_no_failure(load)
    check_writes(load, sql)
    check_nothing_left(sql)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_with_tls_postgres_restarts_and_certificates_rotate_without_a_failed_request(
    stack: Stack,
    sql: Sql,
    ops: Commands,
    host: Host,
    console: AdminConsole,
    make_load: MakeLoad,
    use_hop: UseHop,
) -> None:
    use_hop("tls")
    with make_load() as load:
        wait_for_traffic(load)
        code, output = host.run("restart-postgres", "--compiled")
        assert code == 0, output
        done = ops.run("rotate", "certificates")
        assert done.exit_code == 0, done.text
        wait_until_all_use("tls", stack, console)
    check_no_failure(load)
    check_writes(load, sql)


@pytest.mark.usefixtures("whole_again")
def test_a_socket_that_is_gone_for_a_moment_reaches_no_caller(
    stack: Stack, sql: Sql, console: AdminConsole, make_load: MakeLoad
) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        with socket_away(stack):
            # Every server connection is to be made anew, and none can be.
            console.on_all("RECONNECT")
            poll(
                lambda: all(row["database"] != "risk" for row in servers(stack, console)),
                seconds=10,
                what="no server connection for requests",
            )
            hold(1)
        hold(2)
    check_no_failure(load)
    check_writes(load, sql)
    check_nothing_left(sql)


@pytest.mark.usefixtures("whole_again")
def test_a_hop_over_which_no_login_works_is_undone(
    stack: Stack, ops: Commands, env_file: EnvFile, console: AdminConsole, use_hop: UseHop
) -> None:
    use_hop("tls")
    env_file.set(PGBOUNCER_SERVER_HOP="socket")
    with socket_away(stack):
        done = ops.run("apply")
    assert done.exit_code == 1, done.text
    assert "the old configuration is back" in done.text
    wait_until_all_use("tls", stack, console)


@pytest.mark.parametrize("hop", ["scoket", "TLS"])
def test_another_word_is_refused_and_nothing_is_touched(
    stack: Stack, ops: Commands, env_file: EnvFile, console: AdminConsole, hop: str
) -> None:
    env_file.set(PGBOUNCER_SERVER_HOP=hop)
    done = ops.run("apply")
    assert done.exit_code == 2
    assert "PGBOUNCER_SERVER_HOP" in done.text
    assert "socket | tls" in done.text
    assert {row["addr"] for row in servers(stack, console)} == {"unix"}


@pytest.fixture
def directory(stack: Stack, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a volume in memory with these mount options."""
    options = {"type": "tmpfs", "device": "tmpfs", "o": request.param}
    volume = stack.client.volumes.create(driver_opts=options)
    yield str(volume.name)
    volume.remove()


@pytest.mark.parametrize(
    ("tier", "directory", "reason"),
    [
        ("postgres", "uid=0,gid=0,mode=0755", "has owner and mode 0:0 755, not 10070:10070 750"),
        ("postgres", "uid=10070,gid=10070,mode=0777", "10070:10070 777, not 10070:10070 750"),
        ("pgbouncer", "uid=0,gid=0,mode=0750", "cannot be entered by uid=10071"),
    ],
    indirect=["directory"],
)
def test_a_socket_directory_of_another_owner_is_refused_at_start(
    stack: Stack, tier: str, directory: str, reason: str
) -> None:
    container = stack.client.containers.run(
        stack.container(tier).attrs["Image"],
        volumes={
            f"{stack.project}_{tier}-config": {"bind": "/etc/sluice", "mode": "ro"},
            directory: {"bind": "/run/postgresql", "mode": "rw"},
        },
        tmpfs={"/run/pgbouncer": "", "/tmp": ""},  # noqa: S108
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        detach=True,
    )
    try:
        ended = container.wait(timeout=30)
        said = container.logs().decode()
    finally:
        container.remove(force=True)
    assert ended["StatusCode"] == 1
    assert reason in said
    assert "postgres-socket" in said
