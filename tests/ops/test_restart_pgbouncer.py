"""PgBouncer replicas restarted, replaced, added and removed while requests go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from io import BytesIO

import pytest
from docker.models.images import Image

from tests.faults.load import Load
from tests.faults.oracle import (
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_writes,
)
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_host import EnvFile, Host
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack

SCRIPT = "restart-pgbouncer"
SCALE = "scale-pgbouncer"
REFUSED = 3


def starts(stack: Stack) -> dict[str, str]:
    """Return when each replica's process was started, by container name."""
    return {
        str(one.name): str(one.attrs["State"]["StartedAt"]) for one in stack.containers("pgbouncer")
    }


def ids(stack: Stack) -> set[str]:
    """Return the containers of the replicas."""
    return {str(one.id) for one in stack.containers("pgbouncer")}


def clients_of_each(stack: Stack, console: AdminConsole) -> list[int]:
    """Return the app's connections on each replica."""
    return [
        sum(row["database"].startswith("risk") for row in console.show("CLIENTS", replica=replica))
        for replica in range(len(stack.containers("pgbouncer")))
    ]


def smaller_pools(env_file: EnvFile) -> None:
    """Make room for one replica more under the limit of PostgreSQL."""
    pools = ("INTERACTIVE_POOL_SIZE", "BATCH_POOL_SIZE")
    env_file.set(**{f"PGBOUNCER_{pool}": 4 for pool in pools})


def check(load: Load, sql: Sql, deadline_seconds: float) -> None:
    """Check that nobody noticed."""
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql)


@pytest.mark.usefixtures("whole_again")
def test_a_rolling_restart_of_every_replica_fails_no_request(
    stack: Stack, sql: Sql, host: Host, make_load: MakeLoad, deadline_seconds: float
) -> None:
    before = starts(stack)
    with make_load() as load:
        wait_for_traffic(load)
        code, output = host.run(SCRIPT)
        hold(3)
    assert code == 0, output
    after = starts(stack)
    assert len(after) == len(before)
    assert not set(after.values()) & set(before.values())
    check(load, sql, deadline_seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_changed_definition_replaces_every_container_and_fails_no_request(
    stack: Stack,
    sql: Sql,
    host: Host,
    env_file: EnvFile,
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    before = ids(stack)
    memory = int(env_file.get("PGBOUNCER_MEMORY_MB"))
    with make_load() as load:
        wait_for_traffic(load)
        for size in (memory + 16, memory):
            env_file.set(PGBOUNCER_MEMORY_MB=size)
            code, output = host.run(SCRIPT)
            assert code == 0, output
            limits = {
                one.attrs["HostConfig"]["Memory"] >> 20 for one in stack.containers("pgbouncer")
            }
            assert limits == {size}
        hold(3)
    assert not before & ids(stack)
    check(load, sql, deadline_seconds)


@pytest.fixture
def images(stack: Stack) -> Iterator[tuple[Image, Image]]:
    """Give PgBouncer's image and a rebuilt one of another identity; put the name back."""
    name = stack.container("pgbouncer").attrs["Config"]["Image"]
    present = stack.client.images.get(name)
    text = f"FROM {name}\nLABEL rebuilt=yes\n".encode()
    rebuilt, _ = stack.client.images.build(fileobj=BytesIO(text), tag=f"{name}-rebuilt", rm=True)
    yield present, rebuilt
    present.tag(name)
    stack.client.images.remove(f"{name}-rebuilt")


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_an_image_upgrade_and_the_way_back_fail_no_request(
    stack: Stack,
    sql: Sql,
    host: Host,
    images: tuple[Image, Image],
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    name = stack.container("pgbouncer").attrs["Config"]["Image"]
    present, rebuilt = images
    with make_load() as load:
        wait_for_traffic(load)
        for image in (rebuilt, present):
            image.tag(name)
            code, output = host.run(SCRIPT)
            assert code == 0, output
            assert {one.attrs["Image"] for one in stack.containers("pgbouncer")} == {image.id}
        hold(3)
    check(load, sql, deadline_seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again", "applied_again")
def test_one_replica_more_and_one_less_by_the_run_after_a_killed_one_fails_no_request(
    stack: Stack,
    sql: Sql,
    host: Host,
    env_file: EnvFile,
    console: AdminConsole,
    make_load: MakeLoad,
    deadline_seconds: float,
) -> None:
    before = int(env_file.get("PGBOUNCER_REPLICAS"))
    smaller_pools(env_file)
    with make_load(threads=12) as load:
        wait_for_traffic(load)
        # The number is compiled, and the replica not yet there.
        host.end_at("the rest waits", signal.SIGKILL, SCALE, str(before + 1))
        code, output = host.run(SCALE, str(before + 1))
        assert code == 0, output
        assert len(stack.containers("pgbouncer")) == before + 1
        hold(3)
        assert all(clients_of_each(stack, console)), "a replica has no client"
        host.end_at("clients leave", signal.SIGKILL, SCALE, str(before))
        code, output = host.run(SCALE, str(before))
        assert code == 0, output
        hold(3)
    assert len(stack.containers("pgbouncer")) == before
    assert env_file.get("PGBOUNCER_REPLICAS") == str(before)
    check(load, sql, deadline_seconds)


def test_a_number_that_the_budget_does_not_hold_is_refused_and_not_written(
    stack: Stack, host: Host, env_file: EnvFile
) -> None:
    before = env_file.get("PGBOUNCER_REPLICAS")
    code, output = host.run(SCALE, "30")
    assert code == 2, output
    assert "POSTGRES_MAX_CONNECTIONS" in output
    assert env_file.get("PGBOUNCER_REPLICAS") == before
    assert len(stack.containers("pgbouncer")) == int(before)


def test_a_pause_that_is_on_keeps_a_rolling_restart_from_beginning(
    stack: Stack, host: Host, console: AdminConsole
) -> None:
    before = starts(stack)
    console.command("PAUSE")
    try:
        code, output = host.run(SCRIPT)
    finally:
        console.command("RESUME")
    assert code == REFUSED, output
    assert "is paused" in output
    assert starts(stack) == before
