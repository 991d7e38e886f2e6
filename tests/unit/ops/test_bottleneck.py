"""The verdict over a sampled state: where it is tight and which setting that points to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.ops.status.bottleneck import Verdict, bottleneck
from infra.ops.status.collect import host_facts
from infra.ops.status.looks import (
    Counters,
    ServerLook,
    idle,
    median_look,
    pool_over,
    preparing,
    rates,
)
from infra.ops.status.sample import (
    AppProcess,
    Container,
    Disk,
    HostFacts,
    Pooler,
    PreparingClient,
    RoleSessions,
    Sample,
    Server,
    ServerPool,
    Session,
)

IDLE_APP = AppProcess("api", "api-1", size=4, max_size=16, in_use=1, idle=3, max_waiting=64)
FULL_APP = replace(IDLE_APP, size=16, in_use=16, idle=0, waiting=9)
IDLE_POOL = ServerPool("risk", "risk_api", clients_active=4, servers_idle=4, pool_size=8)
BUSY_POOL = replace(IDLE_POOL, servers_active=4)
FULL_POOL = replace(
    IDLE_POOL, clients_waiting=5, servers_active=8, servers_idle=0, max_wait_seconds=0.25
)
IDLE_SERVER = Server(60, 2, (RoleSessions("risk_api", 20, {"idle": 4}),), on_cpu=1)


def sample(
    app: AppProcess = IDLE_APP, pool: ServerPool = IDLE_POOL, server: Server = IDLE_SERVER
) -> Sample:
    return Sample((app,), (Pooler("pgbouncer-1", pools=(pool,)),), server)


def test_an_idle_path_has_no_bottleneck() -> None:
    assert bottleneck(sample()).where == "none"
    assert not bottleneck(sample()).setting


def test_an_app_pool_is_short_while_pgbouncer_has_idle_servers() -> None:
    verdict = bottleneck(sample(app=FULL_APP, pool=BUSY_POOL))
    assert verdict.where == "app pool"
    assert verdict.setting == "API_POOL_MAX_SIZE"
    assert "9 caller(s) wait" in verdict.line
    assert "4 idle server connection(s)" in verdict.line


def test_a_full_batch_pool_does_not_explain_callers_of_the_api_that_wait() -> None:
    batch = replace(FULL_POOL, database="risk_batch", user="risk_worker", max_wait_seconds=2.0)
    poolers = (Pooler("pgbouncer-1", pools=(BUSY_POOL, batch)),)
    verdict = bottleneck(Sample((FULL_APP,), poolers, IDLE_SERVER))
    assert (verdict.where, verdict.setting) == ("app pool", "API_POOL_MAX_SIZE")


def test_of_two_full_pgbouncer_pools_the_interactive_one_comes_first() -> None:
    batch = replace(FULL_POOL, database="risk_batch", max_wait_seconds=2.0)
    poolers = (Pooler("pgbouncer-1", pools=(batch, FULL_POOL)),)
    assert bottleneck(Sample((FULL_APP,), poolers, IDLE_SERVER)).setting == (
        "PGBOUNCER_INTERACTIVE_POOL_SIZE"
    )


@pytest.mark.parametrize("service", ["postgres", "pgbouncer", "api", "worker"])
@pytest.mark.parametrize(
    ("state", "text", "command"),
    [
        ("exited", "exited since 2026-01-01T00:00:00Z (killed 137, 3 restart(s))", "docker start"),
        ("paused", "paused (started 2026-01-01T00:00:00Z", "docker unpause"),
        ("restarting", "is restarting since", "docker logs"),
    ],
)
def test_a_container_that_does_not_run_is_named_with_its_state_and_the_next_command(
    service: str, state: str, text: str, command: str
) -> None:
    down = Container(service, f"{service}-1", state, "2026-01-01T00:00:00Z", 137, 3)
    silent = replace(IDLE_SERVER, error="has no address: its container does not run")
    found = Sample((FULL_APP,), (), silent, HostFacts((down,)))
    verdict = bottleneck(found)
    assert verdict.where == f"{service} {state}"
    assert f"{service}-1" in verdict.line
    assert text in verdict.line
    assert command in verdict.command


def test_a_stopped_server_explains_the_tiers_that_stand_on_it() -> None:
    since = "2026-01-01T00:00:00Z"
    down = (
        Container("api", "api-1", "restarting", since, 1),
        Container("postgres", "postgres-1", "exited", since, 0),
    )
    verdict = bottleneck(Sample((), (), IDLE_SERVER, HostFacts(down)))
    assert verdict.where == "postgres exited"
    assert "(and 1 more)" in verdict.line


def test_a_container_ended_for_memory_points_to_its_memory() -> None:
    down = Container("postgres", "postgres-1", "exited", "", 137, oom_killed=True)
    verdict = bottleneck(Sample((), (), IDLE_SERVER, HostFacts((down,))))
    assert verdict.setting == "POSTGRES_MEMORY_MB"
    assert "out of memory" in verdict.line
    # First the setting, then what takes it over: in this order on the screen.
    assert verdict.line.endswith("Raise POSTGRES_MEMORY_MB in stack.env, then:")
    assert verdict.command == "make up"


@pytest.mark.parametrize(
    ("services", "text"),
    [
        ((), "no container of postgres, pgbouncer, api, worker is there."),
        (("postgres", "pgbouncer", "worker"), "no container of api is there."),
    ],
)
def test_a_stack_that_is_down_or_half_there_is_brought_up(
    services: tuple[str, ...], text: str
) -> None:
    there = tuple(Container(one, f"{one}-1", "running", "", 0) for one in services)
    silent = replace(IDLE_SERVER, error="has no address: its container does not run")
    verdict = bottleneck(Sample((), (), silent, HostFacts(there)))
    assert (verdict.line, verdict.command) == (text, "make up")


MB = 1 << 20


@pytest.mark.parametrize(
    ("free", "where"), [(31 * MB, "disk full"), (32 * MB, "disk"), (2048 * MB, "none")]
)
def test_a_volume_with_little_room_is_named_before_it_is_full(free: int, where: str) -> None:
    facts = HostFacts((), Disk(20_480 * MB, free, reserve=2048 * MB))
    verdict = bottleneck(replace(sample(), host=facts))
    assert verdict.where == where
    if where != "none":
        assert f"{free // MB} MB free of 20480 MB" in verdict.line
        assert verdict.command == "make free-disk"


def test_a_full_volume_explains_a_server_that_ended_and_a_low_one_does_not() -> None:
    down = (Container("postgres", "postgres-1", "restarting", "", 1),)
    full, low = (Disk(20_480 * MB, free, reserve=2048 * MB) for free in (0, 64 * MB))
    assert bottleneck(replace(sample(), host=HostFacts(down, full))).where == "disk full"
    assert bottleneck(replace(sample(), host=HostFacts(down, low))).where == "postgres restarting"


def test_a_server_without_slots_points_to_the_way_in() -> None:
    full = Server(error="FATAL: sorry, too many clients already")
    verdict = bottleneck(sample(server=full))
    assert verdict.where == "postgres sessions"
    assert verdict.command == "make psql"


def test_without_the_hosts_facts_the_database_is_named_first_and_the_way_to_them() -> None:
    silent = replace(IDLE_APP, error="ConnectTimeout")
    server = Server(error="has no address: its container does not run")
    verdict = bottleneck(sample(app=silent, server=server))
    assert verdict.line.startswith("postgres: has no address")
    assert verdict.command == "make status"


def test_the_worker_has_a_setting_of_its_own() -> None:
    worker = replace(FULL_APP, service="worker", name="worker-2")
    assert bottleneck(sample(app=worker)).setting == "WORKER_POOL_MAX_SIZE"


@pytest.mark.parametrize(
    ("service", "database", "setting"),
    [
        ("api", "risk", "PGBOUNCER_INTERACTIVE_POOL_SIZE"),
        ("worker", "risk_batch", "PGBOUNCER_BATCH_POOL_SIZE"),
    ],
)
def test_a_full_pgbouncer_pool_is_the_cause_of_a_full_app_pool(
    service: str, database: str, setting: str
) -> None:
    app = replace(FULL_APP, service=service)
    verdict = bottleneck(sample(app=app, pool=replace(FULL_POOL, database=database)))
    assert verdict.where == "pgbouncer pool"
    assert verdict.setting == setting
    assert "0.250 s" in verdict.line


def test_short_processors_are_the_cause_of_a_full_pgbouncer_pool() -> None:
    verdict = bottleneck(sample(pool=FULL_POOL, server=replace(IDLE_SERVER, on_cpu=4)))
    assert verdict.where == "postgres cpu"
    assert verdict.setting == "POSTGRES_CPUS"


def test_a_hurried_checkpoint_is_the_cause_of_a_full_pgbouncer_pool() -> None:
    server = replace(IDLE_SERVER, on_disk=3, checkpointing=True)
    verdict = bottleneck(sample(app=FULL_APP, pool=FULL_POOL, server=server))
    assert (verdict.where, verdict.setting) == ("postgres disk", "POSTGRES_MAX_WAL_MB")
    assert verdict.line.startswith("PgBouncer pgbouncer-1: all 8 server connections of risk")
    assert "checkpoints come too often" in verdict.line


@pytest.mark.parametrize(("on_disk", "checkpointing"), [(0, True), (2, False)])
def test_a_checkpoint_that_nobody_waits_for_and_a_disk_that_few_wait_for_are_no_verdict(
    on_disk: int, checkpointing: bool
) -> None:
    server = replace(IDLE_SERVER, on_disk=on_disk, checkpointing=checkpointing)
    assert bottleneck(sample(server=server)).where == "none"


def test_a_slow_disk_is_named_without_a_checkpoint() -> None:
    verdict = bottleneck(sample(server=replace(IDLE_SERVER, on_disk=3)))
    assert (verdict.where, verdict.tier) == ("postgres disk", "postgres")
    assert "3 session(s) wait for the disk" in verdict.line


def test_clients_that_do_nothing_in_their_transactions_are_the_cause_of_a_full_pool() -> None:
    idle = tuple(
        Session(pid, "risk_api", 9.0 - pid, "", state="idle in transaction") for pid in range(1, 5)
    )
    verdict = bottleneck(sample(pool=FULL_POOL, server=replace(IDLE_SERVER, idle=idle)))
    assert (verdict.where, verdict.tier) == ("app transactions", "app")
    assert verdict.setting == "API_IDLE_IN_TRANSACTION_TIMEOUT_MS"
    assert "4 of them belong to transactions in which the client does nothing" in verdict.line
    assert verdict.command.splitlines()[:2] == ["make psql", "SELECT pg_terminate_backend(1);"]
    few = replace(IDLE_SERVER, idle=idle[:3])
    assert bottleneck(sample(pool=FULL_POOL, server=few)).where == "pgbouncer pool"


def test_lent_connections_that_are_not_at_work_are_a_leak() -> None:
    verdict = bottleneck(sample(app=FULL_APP, pool=replace(IDLE_POOL, servers_active=3)))
    assert (verdict.where, verdict.tier) == ("app leak", "app")
    assert verdict.setting == "API_POOL_LEAK_THRESHOLD_SECONDS"
    assert verdict.command == "make logs"


def test_a_pool_of_few_connections_that_no_look_met_at_work_is_too_small() -> None:
    few = replace(FULL_APP, in_use=3, size=3, max_size=3)
    verdict = bottleneck(sample(app=few, pool=replace(IDLE_POOL, servers_active=0)))
    assert (verdict.where, verdict.setting) == ("app pool", "API_POOL_MAX_SIZE")


@pytest.mark.parametrize(("seconds", "where"), [(59.9, "none"), (60.0, "postgres transaction")])
def test_a_transaction_that_is_open_for_long_is_named(seconds: float, where: str) -> None:
    oldest = Session(42, "risk_owner", seconds, "SELECT", state="idle in transaction")
    verdict = bottleneck(sample(server=replace(IDLE_SERVER, oldest=oldest)))
    assert verdict.where == where
    if where != "none":
        assert "process 42 (risk_owner, idle in transaction) has had" in verdict.line
        assert verdict.command.splitlines() == ["make psql", "SELECT pg_terminate_backend(42);"]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"state": "idle in transaction", "query_seconds": 0.5}, True),
        ({"state": "idle in transaction (aborted)", "query_seconds": 2.0}, True),
        ({"state": "idle in transaction", "query_seconds": 0.4}, False),
        ({"state": "active", "query_seconds": 9.0}, False),
        ({"state": None, "query_seconds": None}, False),
    ],
)
def test_idle_is_who_has_sent_nothing_for_a_while(row: dict[str, Any], found: bool) -> None:
    rest = {"pid": 1, "usename": "risk_api", "xact_seconds": 60.0, "query": ""}
    sessions = idle([row | rest])
    assert [one.seconds for one in sessions] == ([row["query_seconds"]] if found else [])


@pytest.mark.parametrize(
    ("where", "tier"),
    [
        ("postgres exited", "postgres"),
        ("gateway paused", "gateway"),
        ("pgbouncer pool", "pgbouncer"),
        ("app pool", "app"),
        ("locks", "postgres"),
        ("paused", "pgbouncer"),
        ("unreachable", ""),
        ("none", ""),
    ],
)
def test_a_verdict_knows_its_tier(where: str, tier: str) -> None:
    assert Verdict(where, "").tier == tier


def test_a_full_server_is_the_cause_of_a_full_pgbouncer_pool() -> None:
    roles = (RoleSessions("risk_api", 60, {"idle": 58}),)
    verdict = bottleneck(sample(pool=FULL_POOL, server=replace(IDLE_SERVER, roles=roles)))
    assert verdict.where == "postgres sessions"
    assert verdict.setting == "POSTGRES_MAX_CONNECTIONS"


def test_a_lock_comes_before_everything_that_queues_behind_it() -> None:
    blocked = (
        Session(11, "risk_api", 0.9, "UPDATE", blocked_by=(10,)),
        Session(12, "risk_api", 0.4, "UPDATE", blocked_by=(11, 10)),
    )
    holder = Session(10, "risk_worker", 31.0, "BEGIN", state="idle in transaction")
    older = Session(9, "risk_api", 90.0, "SELECT", state="active")
    server = replace(IDLE_SERVER, blocked=blocked, oldest=older, holders=(holder,))
    verdict = bottleneck(sample(app=FULL_APP, pool=FULL_POOL, server=server))
    assert verdict.where == "locks"
    assert "process 10 (risk_worker, idle in transaction, 31.0 s)" in verdict.line
    assert verdict.command.splitlines() == ["make psql", "SELECT pg_terminate_backend(10);"]
    assert "2 session(s)" in verdict.line


def test_a_lock_that_nobody_feels_yet_is_no_verdict() -> None:
    blocked = (Session(11, "risk_api", 0.01, "UPDATE", blocked_by=(10,)),)
    assert bottleneck(sample(server=replace(IDLE_SERVER, blocked=blocked))).where == "none"


def test_clients_that_wait_without_any_server_connection_wait_for_a_login() -> None:
    pool = replace(IDLE_POOL, clients_waiting=3, servers_idle=0)
    assert bottleneck(sample(pool=pool)).where == "server logins"


def test_clients_that_wait_a_moment_while_a_server_is_idle_are_no_verdict() -> None:
    assert bottleneck(sample(pool=replace(IDLE_POOL, clients_waiting=1))).where == "none"


def test_a_pause_explains_every_queue() -> None:
    paused = Pooler("pgbouncer-1", paused=True, pools=(FULL_POOL,))
    verdict = bottleneck(Sample((FULL_APP,), (paused,), IDLE_SERVER))
    assert verdict.where == "paused"
    assert verdict.command == "docker exec pgbouncer-1 psql --command RESUME"


GREEDY = PreparingClient(4711, "risk_api", "172.18.0.7", "psql", 12_149)


def _with_memory(megabytes: int, client: PreparingClient | None) -> Sample:
    held = Container("pgbouncer", "x-pgbouncer-2", "running", "", memory=megabytes * MB)
    other = replace(held, name="x-pgbouncer-1", memory=20 * MB)
    facts = HostFacts(tuple(replace(one, memory_limit=128 * MB) for one in (other, held)))
    poolers = (Pooler("x-pgbouncer-1"), Pooler("x-pgbouncer-2", preparing=client))
    return Sample((IDLE_APP,), poolers, IDLE_SERVER, facts)


def test_a_replica_near_its_memory_limit_names_the_client_and_how_to_end_it() -> None:
    verdict = bottleneck(_with_memory(103, GREEDY))
    assert (verdict.where, verdict.setting) == ("pgbouncer memory", "PGBOUNCER_MEMORY_MB")
    assert "x-pgbouncer-2 holds 103 MB of the 128 MB of its container" in verdict.line
    assert "172.18.0.7 (risk_api, psql) has 12149 prepared statements" in verdict.line
    assert verdict.command.splitlines() == [
        "docker exec x-pgbouncer-2 psql --command 'KILL_CLIENT 4711'",
        "make restart-pgbouncer",
    ]


@pytest.mark.parametrize("client", [None, replace(GREEDY, statements=256)])
def test_without_such_a_client_a_replica_near_its_memory_limit_needs_more(
    client: PreparingClient | None,
) -> None:
    verdict = bottleneck(_with_memory(103, client))
    assert verdict.line.endswith("Raise PGBOUNCER_MEMORY_MB in stack.env, then:")
    assert verdict.command == "make apply RESTART=yes"


def test_a_replica_with_memory_to_spare_is_no_bottleneck() -> None:
    assert bottleneck(_with_memory(102, GREEDY)).where == "none"


def test_the_client_with_most_prepared_statements_is_found() -> None:
    row = {"user": "risk_api", "addr": "172.18.0.7", "application_name": "psql"}
    rows = [row | {"id": n, "prepared_statements": n % 3} for n in (3, 4, 5, 6)]
    assert preparing(rows) == PreparingClient(5, "risk_api", "172.18.0.7", "psql", 2)
    assert preparing(rows[:1]) is None
    assert preparing([]) is None


def test_what_the_host_knows_of_memory_belongs_to_its_container() -> None:
    text = (
        '{"service": "pgbouncer", "name": "/x-pgbouncer-1", "state": "running", "started": "",'
        ' "finished": "", "exit_code": 0, "restarts": 0, "health": "", "oom_killed": false,'
        ' "memory_limit": 134217728}\n'
        '{"memory": {"name": "/x-pgbouncer-1", "bytes": 1048576}}\n'
    )
    facts = host_facts(text)
    assert facts is not None
    (found,) = facts.containers
    assert (found.memory, found.memory_limit) == (MB, 128 * MB)


def test_what_does_not_answer_comes_first_and_is_named() -> None:
    silent = replace(IDLE_APP, error="ConnectTimeout")
    verdict = bottleneck(sample(app=silent, pool=FULL_POOL))
    assert verdict.where == "unreachable"
    assert "api-1: ConnectTimeout" in verdict.line


def test_busy_processors_without_a_queue_are_reported() -> None:
    verdict = bottleneck(sample(server=replace(IDLE_SERVER, on_cpu=3)))
    assert verdict.where == "postgres cpu"
    assert "nothing queues" in verdict.line
    # Compose reads it, so the container has to be replaced.
    assert verdict.command == "make apply RESTART=yes"


def counters(at: float, done: int) -> Counters:
    names = ("query_count", "xact_count", "query_time", "xact_time", "wait_time")
    return Counters(at, {"risk": dict(zip(names, (2 * done, done, 9000, 12000, 600), strict=True))})


def test_rates_are_between_two_looks() -> None:
    before = Counters(10.0, {"risk": dict.fromkeys(counters(0, 0).totals["risk"], 0)})
    found = rates("risk", before, counters(12.0, 6))
    assert found == pytest.approx(
        {
            "queries_per_second": 6.0,
            "transactions_per_second": 3.0,
            "query_ms": 0.75,
            "transaction_ms": 2.0,
            "wait_ms": 0.1,
        }
    )


def test_there_are_no_rates_of_a_pool_that_is_new() -> None:
    assert rates("other", counters(10.0, 1), counters(12.0, 6)) == {}


def test_a_queue_that_comes_and_goes_counts_by_its_mean() -> None:
    # A pool of one connection between two callers: free, and the next one not yet woken.
    looks = [FULL_POOL if n % 2 else IDLE_POOL for n in range(10)]
    verdict = bottleneck(sample(pool=pool_over(looks)))
    assert verdict.where == "pgbouncer pool"
    assert "2 client(s) wait" in verdict.line


def test_a_queue_that_is_there_once_is_no_verdict() -> None:
    looks = [FULL_POOL, *[IDLE_POOL] * 11]
    assert bottleneck(sample(pool=pool_over(looks))).where == "none"


def test_a_lock_counts_that_is_waited_for_in_half_of_the_looks() -> None:
    def look(seconds: float) -> ServerLook:
        wait = {"pid": 1, "usename": "risk_api", "wait_seconds": seconds, "query": "", "state": ""}
        return ServerLook([], [wait] if seconds else [])

    often = [look(seconds) for seconds in (0.0, 0.3, 0.0, 0.5)]
    once = [look(seconds) for seconds in (0.0, 0.9, 0.0, 0.0)]
    assert median_look(often).blocked[0]["wait_seconds"] == 0.3
    assert median_look(once).blocked == []
