"""`apply` on the running stack: what is live is applied everywhere, and no request fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice

import pytest

from tests.command import finished
from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_faults import wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll, run_in
from tests.ops import witness

APPLIES = 6
# A load ends by itself after some minutes.
APPLIES_PER_LOAD = 5
NEEDS_RESTART = 4
# Every live pool setting differs between neighbours, some up while others go down; together with
# the direct sessions the first two take every session that PostgreSQL has. The timeout has
# every server connection replaced.
SIZES = (
    {
        "API_POOL_MIN_SIZE": 4,
        "API_POOL_MAX_SIZE": 24,
        "WORKER_POOL_MIN_SIZE": 3,
        "WORKER_POOL_MAX_SIZE": 8,
        "PGBOUNCER_INTERACTIVE_POOL_SIZE": 5,
        "PGBOUNCER_INTERACTIVE_RESERVE_SIZE": 1,
        "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 2,
        "PGBOUNCER_BATCH_POOL_SIZE": 12,
        "PGBOUNCER_BATCH_RESERVE_SIZE": 2,
        "PGBOUNCER_BATCH_MIN_POOL_SIZE": 6,
        "PGBOUNCER_MAX_CLIENT_CONNECTIONS": 400,
        "POSTGRES_OWNER_CONNECTIONS": 3,
        "API_LOCK_TIMEOUT_MS": 900,
        "POSTGRES_MONITOR_CONNECTIONS": 4,
    },
    {
        "API_POOL_MIN_SIZE": 1,
        "API_POOL_MAX_SIZE": 10,
        "WORKER_POOL_MIN_SIZE": 1,
        "WORKER_POOL_MAX_SIZE": 4,
        "PGBOUNCER_INTERACTIVE_POOL_SIZE": 12,
        "PGBOUNCER_INTERACTIVE_RESERVE_SIZE": 3,
        "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 8,
        "PGBOUNCER_BATCH_POOL_SIZE": 4,
        "PGBOUNCER_BATCH_RESERVE_SIZE": 1,
        "PGBOUNCER_BATCH_MIN_POOL_SIZE": 1,
        "PGBOUNCER_MAX_CLIENT_CONNECTIONS": 200,
        "POSTGRES_OWNER_CONNECTIONS": 4,
        "API_LOCK_TIMEOUT_MS": 1000,
        "POSTGRES_MONITOR_CONNECTIONS": 3,
    },
    {
        "API_POOL_MIN_SIZE": 2,
        "API_POOL_MAX_SIZE": 12,
        "WORKER_POOL_MIN_SIZE": 2,
        "WORKER_POOL_MAX_SIZE": 5,
        "PGBOUNCER_INTERACTIVE_POOL_SIZE": 4,
        "PGBOUNCER_INTERACTIVE_RESERVE_SIZE": 0,
        "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 1,
        "PGBOUNCER_BATCH_POOL_SIZE": 3,
        "PGBOUNCER_BATCH_RESERVE_SIZE": 0,
        "PGBOUNCER_BATCH_MIN_POOL_SIZE": 0,
        "PGBOUNCER_MAX_CLIENT_CONNECTIONS": 150,
        "POSTGRES_OWNER_CONNECTIONS": 2,
        "API_LOCK_TIMEOUT_MS": 1100,
        "POSTGRES_MONITOR_CONNECTIONS": 2,
    },
)


def check_running(stack: Stack, console: AdminConsole, sql: Sql, settings: dict[str, int]) -> None:
    """Check the pool settings on every process, without the operator's own read-back."""
    for name, pool in witness.app_pools(stack).items():
        prefix = "API" if "-api-" in name else "WORKER"
        assert pool["min_size"] == settings[f"{prefix}_POOL_MIN_SIZE"], name
        assert pool["max_size"] == settings[f"{prefix}_POOL_MAX_SIZE"], name
        assert pool["size"] <= pool["max_size"], name
    for name, found in witness.entries(stack, console).items():
        for entry, kind in {"risk": "INTERACTIVE", "risk_batch": "BATCH"}.items():
            size = settings[f"PGBOUNCER_{kind}_POOL_SIZE"]
            reserve = settings[f"PGBOUNCER_{kind}_RESERVE_SIZE"]
            minimum = settings[f"PGBOUNCER_{kind}_MIN_POOL_SIZE"]
            assert found[entry] == (size, reserve, minimum, size + reserve), name
    for name, config in witness.configs(stack, console).items():
        assert config["max_client_conn"] == str(settings["PGBOUNCER_MAX_CLIENT_CONNECTIONS"]), name
    limits = witness.role_limits(sql)
    assert limits["risk_owner"] == settings["POSTGRES_OWNER_CONNECTIONS"]
    replicas = len(stack.containers("pgbouncer"))
    pooled = settings["PGBOUNCER_BATCH_POOL_SIZE"] + settings["PGBOUNCER_BATCH_RESERVE_SIZE"]
    assert limits["risk_worker"] >= pooled * replicas


@pytest.mark.slow
def test_applies_that_grow_and_shrink_every_pool_fail_no_request(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    make_load: Callable[..., Load],
    applied_again: None,
) -> None:
    replicas = len(stack.containers("pgbouncer"))
    caps = {
        entry: max(one[f"{kind}_POOL_SIZE"] + one[f"{kind}_RESERVE_SIZE"] for one in SIZES)
        for entry, kind in {
            "risk": "PGBOUNCER_INTERACTIVE",
            "risk_batch": "PGBOUNCER_BATCH",
        }.items()
    }
    remaining = iter(islice(cycle(SIZES), APPLIES))
    with witness.Sampler(sql, console, replicas, caps) as sampler:
        while some := list(islice(remaining, APPLIES_PER_LOAD)):
            with make_load(threads=6) as load:
                wait_for_traffic(load)
                for sizes in some:
                    done = ops.apply(env.set(**sizes))
                    assert done.exit_code == 0, done.text
                    check_running(stack, console, sql, sizes)
                assert load.samples[-1].ended > time.monotonic() - 10, "the load ended before"
            oracle.check_no_failure(load)
            oracle.check_writes(load, sql)
    assert sampler.exceeded == [], sampler.highest
    assert sampler.samples > 2 * APPLIES
    oracle.check_nothing_left(sql)


def test_the_second_of_two_at_once_is_refused_or_waits(
    stack: Stack, ops: Commands, env: EnvDir, applied_again: None
) -> None:
    with lock_held(stack):
        refused = ops.apply(env)
        waiting = ops.start("apply", "--wait", "60", env_dir=env.path)
    waited = finished(waiting)
    assert refused.exit_code == 3, refused.text
    assert "refused: apply in container" in refused.text
    assert "this command changed nothing" in refused.text
    assert waited.exit_code == 0, waited.text


def test_two_started_together_do_not_mix(ops: Commands, env: EnvDir, applied_again: None) -> None:
    env.set(**SIZES[2])
    both = [ops.start("apply", "--json", env_dir=env.path) for _ in range(2)]
    codes = sorted(finished(one).exit_code for one in both)
    assert codes in ([0, 0], [0, 3])


@contextmanager
def lock_held(stack: Stack) -> Iterator[None]:
    """Hold the operation lock from another container, as an apply that takes long."""
    volume = {f"{stack.project}_ops-config": {"bind": "/out/ops", "mode": "rw"}}
    image = stack.containers("config", all_states=True)[0].attrs["Config"]["Image"]
    script = (
        "import time; from pathlib import Path; from infra.config.lock import operation_lock\n"
        "with operation_lock(Path('/out/ops'), 'apply'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = stack.client.containers.run(
        image,
        ["-c", script],
        entrypoint=["python"],
        user="0:0",
        volumes=volume,
        network_mode="none",
        detach=True,
    )
    try:
        poll(lambda: b"held" in holder.logs(), seconds=20, what="the lock is held")
        yield
    finally:
        holder.remove(force=True)


def test_what_was_applied_holds_after_a_restart_of_every_container(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    applied_again: None,
    whole_again: None,
) -> None:
    done = ops.apply(env.set(**SIZES[1] | {"API_LOCK_TIMEOUT_MS": 950}))
    assert done.exit_code == 0, done.text
    for service in ("postgres", "pgbouncer", "api", "worker"):
        for container in stack.containers(service):
            container.restart()
    stack.wait_healthy(seconds=120)
    check_running(stack, console, sql, SIZES[1])
    setting = "SELECT rolconfig::text FROM pg_roles WHERE rolname = 'risk_api'"
    assert "lock_timeout=950ms" in sql.value(setting)
    assert ops.apply(env).exit_code == 0


def test_new_role_timeouts_hold_for_connections_that_were_open(
    stack: Stack, sql: Sql, ops: Commands, env: EnvDir, applied_again: None
) -> None:
    """A role's settings are read at login: the server connections are replaced."""
    done = ops.apply(env.set(API_STATEMENT_TIMEOUT_MS=3100))
    assert done.exit_code == 0, done.text
    altered = (
        "SELECT min(backend_start) > now() - interval '30 s' FROM pg_stat_activity"
        " WHERE usename = 'risk_api'"
    )
    assert sql.value(altered) == "t"


def test_what_needs_a_restart_is_named_and_left_alone(
    stack: Stack, sql: Sql, ops: Commands, env: EnvDir, applied_again: None
) -> None:
    before = sql.value("SHOW max_connections")
    env.set(POSTGRES_MAX_CONNECTIONS=70, API_THREADS=41, API_MEMORY_MB=300, API_POOL_MAX_SIZE=17)
    done = ops.apply(env, "--json")
    assert done.exit_code == NEEDS_RESTART, done.text
    document = done.document
    assert document["restart"] == ["postgres"]
    assert document["recreate"] == ["api"]
    waiting = {"POSTGRES_MAX_CONNECTIONS", "API_THREADS", "API_MEMORY_MB"}
    assert set(document["waiting"]) == waiting
    assert {
        pool["max_size"] for name, pool in witness.app_pools(stack).items() if "-api-" in name
    } == {17}
    code, text = run_in(
        stack.container("postgres"), ["grep", "^max_connections", "/etc/sluice/postgresql.conf"]
    )
    assert code == 0
    assert text.strip() == f"max_connections = {before}"


def test_growth_that_needs_a_restart_first_is_held_back(
    stack: Stack, console: AdminConsole, ops: Commands, env: EnvDir, applied_again: None
) -> None:
    env.set(POSTGRES_MAX_CONNECTIONS=80, PGBOUNCER_BATCH_POOL_SIZE=18)
    before = witness.entries(stack, console)
    done = ops.apply(env, "--json")
    assert done.exit_code == NEEDS_RESTART, done.text
    assert done.document["held"] == ["PGBOUNCER_BATCH_POOL_SIZE"]
    assert witness.entries(stack, console) == before


def test_a_killed_apply_leaves_a_stack_that_the_next_one_finishes(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    applied_again: None,
) -> None:
    env.set(**SIZES[2])
    process = ops.start("apply", env_dir=env.path)
    assert process.stdout is not None
    for line in process.stdout:
        if "files:" in line:
            break
    process.send_signal(subprocess.signal.SIGKILL)  # type: ignore[attr-defined]
    label = f"com.docker.compose.project={stack.project}"
    for container in stack.client.containers.list(
        filters={"label": [label, "com.docker.compose.service=ops"]}
    ):
        container.kill()
    done = ops.apply(env, "--wait", "30")
    assert done.exit_code == 0, done.text
    check_running(stack, console, sql, SIZES[2])


@pytest.mark.slow
def test_with_restart_what_was_held_back_runs_in_the_end(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    make_load: Callable[..., Load],
    whole_again: None,
) -> None:
    """PostgreSQL restarts while clients wait; only then do the pools grow."""
    env.set(POSTGRES_MAX_CONNECTIONS=80, PGBOUNCER_BATCH_POOL_SIZE=18, WORKER_POOL_TIMEOUT_MS=5100)
    try:
        with make_load(threads=4) as load:
            wait_for_traffic(load)
            done = ops.script("apply", "--restart", env=env)
        assert done.exit_code == 0, done.text
        assert sql.value("SHOW max_connections") == "80"
        assert {one["risk_batch"][0] for one in witness.entries(stack, console).values()} == {18}
        assert ops.run("plan", "--json", env_dir=env.path).document["differences"] == []
        oracle.check_no_failure(load)
    finally:
        back = ops.script("apply", "--restart", env=env.reset())
        assert back.exit_code == 0, back.text
