"""Every rule of the budget: accepted at the limit, refused just beyond."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue, measured, resources, sizing
from infra.config.build import check
from infra.config.derived import derived_settings
from infra.config.settings import Values
from tests.unit.infra.support import REPOSITORY, judge, messages, write_env

Settings = dict[str, Any]

# (rule, settings exactly at the limit, the same just beyond it, what the fault says)
LIMITS: list[tuple[str, Settings, Settings, str]] = [
    (
        "the log that waits for the repository leaves room for the data",
        {"POSTGRES_DISK_MB": 20480, "BACKUP_QUEUE_MB": 8192},
        {"POSTGRES_DISK_MB": 20480, "BACKUP_QUEUE_MB": 8193},
        "BACKUP_QUEUE_MB=8193 + POSTGRES_MAX_WAL_MB=1024 x 2 exceeds 10240 MB",
    ),
    (
        "what is on this machine needs no way out",
        {"BACKUP_NETWORK": "backups"},
        {"BACKUP_NETWORK": "uplink"},
        "would need no way out for the repository; set BACKUP_NETWORK=backups",
    ),
    (
        "a repository elsewhere takes a host",
        {"BACKUP_REPOSITORY": "s3", "BACKUP_NETWORK": "uplink", "BACKUP_BUCKET": "sluice"}
        | {"BACKUP_HOST": "s3.example.org"},
        {"BACKUP_REPOSITORY": "s3", "BACKUP_NETWORK": "uplink", "BACKUP_BUCKET": "sluice"},
        "BACKUP_REPOSITORY=s3 takes BACKUP_HOST, which has no value",
    ),
    (
        "1 server connections fit into max_connections",
        {"POSTGRES_MAX_CONNECTIONS": 30},
        {"POSTGRES_MAX_CONNECTIONS": 29},
        "2 x 6 server connections",
    ),
    (
        "1 replicas multiply the pools",
        {"PGBOUNCER_REPLICAS": 3, "POSTGRES_MAX_CONNECTIONS": 36},
        {"PGBOUNCER_REPLICAS": 3, "POSTGRES_MAX_CONNECTIONS": 35},
        "= 36 exceeds POSTGRES_MAX_CONNECTIONS=35",
    ),
    (
        "the console leaves sessions to operators",
        {"COMPOSE_PROFILES": "observability", "POSTGRES_OPERATOR_CONNECTIONS": 4},
        {"COMPOSE_PROFILES": "observability", "POSTGRES_OPERATOR_CONNECTIONS": 3},
        "POSTGRES_OPERATOR_CONNECTIONS=3 must be at least 4",
    ),
    (
        "the console has a port of its own",
        {"COMPOSE_PROFILES": "observability", "API_PORT": 8091},
        {"COMPOSE_PROFILES": "observability", "API_PORT": 8090},
        "API_PORT=8090 and CONSOLE_PORT=8090 are the same port",
    ),
    (
        "2 app pools, the api's twice, and headroom fit into one replica",
        {"PGBOUNCER_MAX_CLIENT_CONNECTIONS": 54},
        {"PGBOUNCER_MAX_CLIENT_CONNECTIONS": 53},
        "need 54 client connections",
    ),
    (
        "2 every process of the api has a pool, and a restart one more",
        {
            "API_CPUS": 2,
            "API_PROCESSES": 2,
            "API_MEMORY_MB": 371,
            "PGBOUNCER_MAX_CLIENT_CONNECTIONS": 70,
        },
        {
            "API_CPUS": 2,
            "API_PROCESSES": 2,
            "API_MEMORY_MB": 371,
            "PGBOUNCER_MAX_CLIENT_CONNECTIONS": 69,
        },
        "API_PROCESSES=2, API_POOL_MAX_SIZE=16, WORKER_REPLICAS=2",
    ),
    (
        "a processor for every process of the api",
        {"API_CPUS": "1.1", "API_PROCESSES": 2, "API_MEMORY_MB": 512},
        {"API_CPUS": "1.1", "API_PROCESSES": 3, "API_MEMORY_MB": 512},
        "API_PROCESSES=3 exceeds API_CPUS=1.1 rounded up",
    ),
    (
        "the processes of the api fit into its container's threads",
        {"API_CPUS": 2, "API_PROCESSES": 2, "API_MEMORY_MB": 1024, "API_THREADS": 309},
        {"API_CPUS": 2, "API_PROCESSES": 2, "API_MEMORY_MB": 1024, "API_THREADS": 310},
        "need 1026 threads while the api is restarted",
    ),
    (
        "so do those that connect its pool",
        {"API_CPUS": 2, "API_PROCESSES": 2, "API_MEMORY_MB": 1024, "API_THREADS": 309},
        {
            "API_CPUS": 2,
            "API_PROCESSES": 2,
            "API_MEMORY_MB": 1024,
            "API_THREADS": 309,
            "APP_POOL_CONNECTORS": 4,
        },
        "API_PROCESSES=2, API_THREADS=309, APP_POOL_CONNECTORS=4 need 1026 threads",
    ),
    (
        "the processes of the api fit into its memory",
        {"API_CPUS": 2, "API_PROCESSES": 2, "API_MEMORY_MB": 371},
        {"API_CPUS": 2, "API_PROCESSES": 2, "API_MEMORY_MB": 370},
        "API_EVENT_STREAMS_MAX=50 need about 371 MB",
    ),
    (
        "so do its answers with results",
        {"API_THREADS": 42},
        {"API_THREADS": 43},
        "API_THREADS=43, API_EVENT_STREAMS_MAX=50 need about 257 MB",
    ),
    (
        "and its event streams",
        {"API_EVENT_STREAMS_MAX": 73},
        {"API_EVENT_STREAMS_MAX": 74},
        "API_EVENT_STREAMS_MAX=74 need about 257 MB",
    ),
    (
        "two ports of the host",
        {"API_PORT": 8080, "PGBOUNCER_PORT": 8081},
        {"API_PORT": 8080, "PGBOUNCER_PORT": 8080},
        "API_PORT=8080 and PGBOUNCER_PORT=8080 are the same port",
    ),
    (
        "2 connections fit into the open files",
        {"PGBOUNCER_OPEN_FILES": 1070},
        {"PGBOUNCER_OPEN_FILES": 1069},
        "= 1070 exceeds PGBOUNCER_OPEN_FILES=1069",
    ),
    (
        "TLS clients fit into PgBouncer's memory",
        {"PGBOUNCER_MAX_CLIENT_CONNECTIONS": 1024, "PGBOUNCER_MEMORY_MB": 88},
        {"PGBOUNCER_MAX_CLIENT_CONNECTIONS": 1025, "PGBOUNCER_MEMORY_MB": 88},
        "exceeds PGBOUNCER_MEMORY_MB=88",
    ),
    (
        "so does the longest message, four times",
        {"PGBOUNCER_MAX_CLIENT_CONNECTIONS": 1024, "PGBOUNCER_MAX_PACKET_KB": 18_432},
        {"PGBOUNCER_MAX_CLIENT_CONNECTIONS": 1024, "PGBOUNCER_MAX_PACKET_KB": 18_433},
        "TLS clients and 4 x PGBOUNCER_MAX_PACKET_KB=18433 need about 129 MB",
    ),
    (
        "the results of a batch pass PgBouncer",
        {"WORKER_BATCH_TASKS": 256, "PGBOUNCER_MAX_PACKET_KB": 2048},
        {"WORKER_BATCH_TASKS": 257, "PGBOUNCER_MAX_PACKET_KB": 2048},
        "WORKER_BATCH_TASKS=257 x 8 kB of results = 2056 kB exceeds PGBOUNCER_MAX_PACKET_KB=2048",
    ),
    (
        "3 api minimum",
        {"API_POOL_MIN_SIZE": 16},
        {"API_POOL_MIN_SIZE": 17},
        "API_POOL_MIN_SIZE=17 exceeds API_POOL_MAX_SIZE=16",
    ),
    (
        "3 worker minimum",
        {"WORKER_POOL_MIN_SIZE": 6},
        {"WORKER_POOL_MIN_SIZE": 7},
        "WORKER_POOL_MIN_SIZE=7 exceeds WORKER_POOL_MAX_SIZE=6",
    ),
    (
        "3 interactive minimum",
        {"PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 2},
        {"PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 3},
        "exceeds PGBOUNCER_INTERACTIVE_POOL_SIZE=2",
    ),
    (
        "3 batch minimum",
        {"PGBOUNCER_BATCH_MIN_POOL_SIZE": 2},
        {"PGBOUNCER_BATCH_MIN_POOL_SIZE": 3},
        "exceeds PGBOUNCER_BATCH_POOL_SIZE=2",
    ),
    (
        "3 worker threads",
        {"WORKER_THREADS": 6},
        {"WORKER_THREADS": 7},
        "WORKER_THREADS=7 exceeds WORKER_POOL_MAX_SIZE=6; a thread would wait for another thread",
    ),
    (
        "the first pause of an idle worker is at most the longest",
        {"WORKER_POLL_INTERVAL_MS": 700, "WORKER_POLL_INTERVAL_MAX_MS": 700},
        {"WORKER_POLL_INTERVAL_MS": 701, "WORKER_POLL_INTERVAL_MAX_MS": 700},
        "WORKER_POLL_INTERVAL_MS=701 exceeds WORKER_POLL_INTERVAL_MAX_MS=700",
    ),
    (
        "5 work_mem fits into memory",
        {"POSTGRES_WORK_MEM_KB": 3942},
        {"POSTGRES_WORK_MEM_KB": 3943},
        "MB exceeds POSTGRES_MEMORY_MB=1024",
    ),
    (
        "twice the log fits into a quarter of the disk",
        {"POSTGRES_MAX_WAL_MB": 2560},
        {"POSTGRES_MAX_WAL_MB": 2561},
        "POSTGRES_MAX_WAL_MB=2561 x 2 exceeds 5120 MB, a quarter of POSTGRES_DISK_MB=20480",
    ),
    (
        "6 prepared statements",
        {"APP_PREPARED_MAX": 200},
        {"APP_PREPARED_MAX": 201},
        "APP_PREPARED_MAX=201 exceeds PGBOUNCER_MAX_PREPARED_STATEMENTS=200",
    ),
]

# (shorter, longer, value of the shorter at the limit, value just beyond)
TIMES: list[tuple[str, str, object, object]] = [
    ("API_LOCK_TIMEOUT_MS", "API_STATEMENT_TIMEOUT_MS", 2999, 3000),
    ("API_STATEMENT_TIMEOUT_MS", "API_IDLE_IN_TRANSACTION_TIMEOUT_MS", 4999, 5000),
    ("API_IDLE_IN_TRANSACTION_TIMEOUT_MS", "API_TRANSACTION_TIMEOUT_MS", 5999, 6000),
    ("API_TRANSACTION_TIMEOUT_MS", "API_QUERY_TIMEOUT_SECONDS", 7999, 8000),
    ("API_QUERY_TIMEOUT_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 9, 10),
    ("API_POOL_TIMEOUT_MS", "API_REQUEST_DEADLINE_SECONDS", 9999, 10_000),
    ("API_REQUEST_DEADLINE_SECONDS", "API_SHUTDOWN_GRACE_SECONDS", "19.9", 20),
    ("WORKER_LOCK_TIMEOUT_MS", "WORKER_STATEMENT_TIMEOUT_MS", 19_999, 20_000),
    ("WORKER_STATEMENT_TIMEOUT_MS", "WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS", 24_999, 25_000),
    ("WORKER_IDLE_IN_TRANSACTION_TIMEOUT_MS", "WORKER_TRANSACTION_TIMEOUT_MS", 29_999, 30_000),
    ("WORKER_TRANSACTION_TIMEOUT_MS", "WORKER_QUERY_TIMEOUT_SECONDS", 34_999, 35_000),
    ("WORKER_QUERY_TIMEOUT_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS", 39, 40),
    ("WORKER_POOL_TIMEOUT_MS", "WORKER_BATCH_DEADLINE_SECONDS", 39_999, 40_000),
    ("WORKER_BATCH_DEADLINE_SECONDS", "WORKER_LEASE_SECONDS", "59.9", 60),
    ("APP_CONNECT_TIMEOUT_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 9, 10),
    ("TCP_USER_TIMEOUT_MS", "API_REQUEST_DEADLINE_SECONDS", 9999, 10_000),
    ("PGBOUNCER_SERVER_CONNECT_TIMEOUT_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 9, 10),
    ("PGBOUNCER_DNS_MAX_TTL_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 9, 10),
    ("PGBOUNCER_RESERVE_TIMEOUT_SECONDS", "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS", 3, 4),
    ("PGBOUNCER_SERVER_LOGIN_RETRY_SECONDS", "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS", 3, 4),
    ("APP_POOL_MAX_IDLE_SECONDS", "APP_POOL_MAX_LIFETIME_SECONDS", 1799, 1800),
    ("PAUSE_DRAIN_SECONDS", "PAUSE_MAX_SECONDS", 7, 8),
    ("PAUSE_MAX_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 9, 10),
    ("CERTIFICATE_RENEW_DAYS", "CERTIFICATE_DAYS", 364, 365),
]

# (not longer, other, value at the limit, value just beyond)
UP_TO: list[tuple[str, str, object, object]] = [
    ("API_RETRY_BUDGET_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 10, "10.1"),
    ("API_POOL_LEAK_THRESHOLD_SECONDS", "API_REQUEST_DEADLINE_SECONDS", 10, "10.1"),
    ("WORKER_RETRY_BUDGET_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS", 40, "40.1"),
    ("WORKER_POOL_LEAK_THRESHOLD_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS", 40, "40.1"),
    ("APP_POOL_CHECK_IDLE_SECONDS", "APP_POOL_MAX_IDLE_SECONDS", 300, "300.1"),
]


@pytest.mark.parametrize(("rule", "at", "beyond", "says"), LIMITS, ids=[row[0] for row in LIMITS])
def test_a_rule_accepts_its_limit_and_refuses_more(
    tmp_path: Path, rule: str, at: Settings, beyond: Settings, says: str
) -> None:
    assert messages(judge(tmp_path, **at)) == ""
    refused = judge(tmp_path, **beyond)
    assert [fault.file for fault in refused.faults] == ["infra/env/stack.env"]
    assert says in messages(refused)


@pytest.mark.parametrize(("low", "high", "at", "beyond"), TIMES, ids=[row[0] for row in TIMES])
def test_a_shorter_time_stays_below_the_longer(
    tmp_path: Path, low: str, high: str, at: object, beyond: object
) -> None:
    wanted = f"{low}={beyond} must be below {high}="
    assert f"{low}=" not in messages(judge(tmp_path, **_with_room(low, at)))
    assert wanted in messages(judge(tmp_path, **_with_room(low, beyond)))


def _with_room(low: str, value: object) -> Settings:
    """Lengthen the times that another rule holds against the same setting."""
    room: Settings = {
        "PAUSE_QUERY_WAIT_TIMEOUT_SECONDS": 100,
        "PAUSE_DEAD_MAN_SECONDS": 100,
        "PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS": 100,
        "WORKER_QUERY_WAIT_TIMEOUT_SECONDS": 0,
    }
    return room | {low: value}


@pytest.mark.parametrize(("low", "high", "at", "beyond"), UP_TO, ids=[row[0] for row in UP_TO])
def test_a_time_may_reach_but_not_exceed_the_other(
    tmp_path: Path, low: str, high: str, at: object, beyond: object
) -> None:
    assert messages(judge(tmp_path, **{low: at})) == ""
    assert f"{low}={beyond} exceeds {high}=" in messages(judge(tmp_path, **{low: beyond}))


def test_queue_and_statement_stay_below_the_request_deadline(tmp_path: Path) -> None:
    at: Settings = {"PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS": 6, "API_STATEMENT_TIMEOUT_MS": 3999}
    assert messages(judge(tmp_path, **at)) == ""
    beyond = at | {"API_STATEMENT_TIMEOUT_MS": 4000}
    assert "= 10 s must be below API_REQUEST_DEADLINE_SECONDS=10.0" in messages(
        judge(tmp_path, **beyond)
    )


def test_queue_and_statement_stay_below_the_batch_deadline(tmp_path: Path) -> None:
    beyond = {"WORKER_STATEMENT_TIMEOUT_MS": 24_000, "WORKER_BATCH_DEADLINE_SECONDS": 28}
    assert "must be below WORKER_BATCH_DEADLINE_SECONDS=28" in messages(judge(tmp_path, **beyond))


def test_the_lease_outlasts_the_transaction(tmp_path: Path) -> None:
    found = messages(judge(tmp_path, WORKER_LEASE_SECONDS=30))
    assert "WORKER_TRANSACTION_TIMEOUT_MS=30000 must be below WORKER_LEASE_SECONDS=30" in found


def test_a_login_may_take_as_long_as_pgbouncer_allows(tmp_path: Path) -> None:
    at: Settings = {"APP_CONNECT_TIMEOUT_SECONDS": 5, "PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS": 5}
    assert messages(judge(tmp_path, **at)) == ""
    beyond = at | {"PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS": 4}
    assert "PgBouncer would cut a login" in messages(judge(tmp_path, **beyond))


def test_a_reconnect_allows_one_whole_attempt(tmp_path: Path) -> None:
    assert messages(judge(tmp_path, APP_POOL_RECONNECT_TIMEOUT_SECONDS=3)) == ""
    beyond = judge(tmp_path, APP_POOL_RECONNECT_TIMEOUT_SECONDS=2)
    assert "the pool would give up mid-attempt" in messages(beyond)


@pytest.mark.parametrize(
    ("name", "at", "beyond"),
    [("PAUSE_QUERY_WAIT_TIMEOUT_SECONDS", 9, 8), ("PAUSE_DEAD_MAN_SECONDS", 9, 8)],
)
def test_a_planned_pause_ends_before_the_waits_around_it(
    tmp_path: Path, name: str, at: int, beyond: int
) -> None:
    assert messages(judge(tmp_path, **{name: at})) == ""
    assert f"PAUSE_MAX_SECONDS=8 must be below {name}=8" in messages(
        judge(tmp_path, **{name: beyond})
    )


def test_several_broken_rules_are_reported_together(tmp_path: Path) -> None:
    found = judge(tmp_path, WORKER_THREADS=16, APP_PREPARED_MAX=999, POSTGRES_MAX_CONNECTIONS=20)
    assert len(found.faults) == 3


def test_a_setting_out_of_range_is_not_judged_a_second_time(tmp_path: Path) -> None:
    (fault,) = judge(tmp_path, WORKER_THREADS=100_000).faults
    assert "is outside 1..256 threads" in fault.message


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"POSTGRES_CPUS": "1.0"}, "is more than 2 x POSTGRES_CPUS=1.0"),
        ({"PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE": 0}, "wait for logins"),
        ({"API_THREADS": 8}, "API_POOL_MAX_SIZE=16, API_THREADS=8"),
        ({"WORKER_THREADS": 1}, "WORKER_POOL_MAX_SIZE=6, WORKER_THREADS=1"),
        ({"POSTGRES_MEMORY_MB": 400}, "sorts go to disk"),
        ({"API_BIND_ADDRESS": "0.0.0.0"}, "the api, which has no authentication"),
    ],
)
def test_what_is_only_unwise_is_a_warning(tmp_path: Path, changed: Settings, says: str) -> None:
    checked = judge(tmp_path, **changed)
    assert not checked.faults
    assert says in "\n".join(str(warning) for warning in checked.warnings)


def test_no_text_of_a_statement_is_logged_until_somebody_wants_it(tmp_path: Path) -> None:
    assert not judge(tmp_path).warnings
    chosen = {"POSTGRES_SLOW_STATEMENT_MS": 1000, "PGBOUNCER_LOG_VERBOSITY": 1}
    found = [str(one) for one in judge(tmp_path, **chosen).warnings]
    assert [name for name, one in zip(chosen, found, strict=True) if f"{name}=" in one] == [*chosen]


def test_pools_within_twice_the_cores_are_no_warning(tmp_path: Path) -> None:
    sizes = ("PGBOUNCER_INTERACTIVE_POOL_SIZE", "PGBOUNCER_BATCH_POOL_SIZE")
    at = judge(tmp_path, POSTGRES_CPUS="8.0", **dict.fromkeys(sizes, 8))
    assert not at.warnings
    beyond = judge(tmp_path, POSTGRES_CPUS="7.9", **dict.fromkeys(sizes, 8))
    assert len(beyond.warnings) == 2


def test_a_measurement_on_record_speaks_for_a_large_pool(tmp_path: Path) -> None:
    def warned(record: str) -> str:
        path = write_env(tmp_path, PGBOUNCER_INTERACTIVE_POOL_SIZE=8)
        line = "PGBOUNCER_INTERACTIVE_POOL_SIZE=8\n"
        path.write_text(path.read_text().replace(line, f"{record}\n{line}"))
        return "\n".join(str(one) for one in check(path).warnings)

    here = measured.this_machine()
    today = datetime.datetime.now(datetime.UTC).date()
    old = today - datetime.timedelta(days=measured.MAX_AGE_DAYS + 1)
    form = "# Measured at {} on {}, {} cores, {:.1f} GiB: 276 requests/s."
    gib = here.memory_gib
    assert not warned(form.format(8, today, here.cores, gib))
    assert "is of 4" in warned(form.format(4, today, here.cores, gib))
    assert "another machine" in warned(form.format(8, today, here.cores + 1, gib))
    assert "another machine" in warned(form.format(8, today, here.cores, gib * 2))
    assert f"is of {old}" in warned(form.format(8, old, here.cores, gib))
    for no_record in (
        "# Measured at 8: 276 requests/s.",
        f"# Measured at 8 on {today}, 2 cores, 4 GiB: much.",
        "# Tried at 8: 276 requests/s",
    ):
        assert "no measurement is on record" in warned(no_record)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_role_may_have_what_pgbouncer_may_open(replicas: int) -> None:
    values = Values(catalogue.defaults().as_dict() | {"PGBOUNCER_REPLICAS": replicas})
    limits = sizing.role_limits(values)
    for pool in sizing.pools(values):
        assert limits[pool.user] >= pool.limit * replicas


def test_role_limits_leave_the_direct_sessions_alone() -> None:
    values = catalogue.defaults()
    limits = sizing.role_limits(values)
    others = sizing.direct(values) + sizing.reserved(values)
    for user in ("risk_api", "risk_worker"):
        claimed = sizing.pooled(values) - next(
            pool.limit * 2 for pool in sizing.pools(values) if pool.user == user
        )
        assert limits[user] + claimed + others <= values.integer("POSTGRES_MAX_CONNECTIONS")


@pytest.mark.parametrize("memory", [1024, 2048, 8192, 65_536])
@pytest.mark.parametrize("sessions", [60, 100, 200])
def test_derived_work_mem_always_fits_unless_it_is_at_its_minimum(
    memory: int, sessions: int
) -> None:
    changed = {"POSTGRES_MEMORY_MB": memory, "POSTGRES_MAX_CONNECTIONS": sessions}
    values = Values(catalogue.defaults().as_dict() | changed)
    fits = resources.memory_demand_kb(values) <= resources.memory_kb(values)
    assert fits or resources.work_mem_kb(values) == resources.WORK_MEM_MIN_KB


@pytest.mark.parametrize("disk", [1024, 20_480, 524_288])
def test_all_that_may_spill_at_once_fits_into_a_quarter_of_the_disk(disk: int) -> None:
    values = Values(catalogue.defaults().as_dict() | {"POSTGRES_DISK_MB": disk})
    limit = resources.temp_file_limit_kb(values)
    assert 0 < limit * resources.spilling_processes(values) <= disk * 1024 // 4
    # Every direct session but the owner's, those of two PgBouncers, two parallel workers.
    assert resources.spilling_processes(values) == 9 + 12 + 2


@pytest.mark.parametrize(
    ("disk", "ballast"), [(1024, 64), (20_480, 320), (65_536, 1024), (1_048_576, 1024)]
)
def test_the_ballast_follows_the_disk_within_bounds(disk: int, ballast: int) -> None:
    values = Values(catalogue.defaults().as_dict() | {"POSTGRES_DISK_MB": disk})
    assert resources.ballast_mb(values) == ballast


def test_every_derived_setting_has_a_formula() -> None:
    for item in derived_settings(catalogue.defaults()):
        assert item.value
        assert item.formula


@pytest.mark.parametrize(("chosen", "refused"), [(1, True), (63, True), (64, False), (0, False)])
def test_work_mem_that_postgresql_would_refuse_is_refused(
    tmp_path: Path, chosen: int, refused: bool
) -> None:
    found = messages(judge(tmp_path, POSTGRES_WORK_MEM_KB=chosen))
    assert (f"POSTGRES_WORK_MEM_KB={chosen} is below 64 kB" in found) == refused


def test_the_threads_of_the_api_are_those_that_compose_allows() -> None:
    compose = (REPOSITORY / "compose.yaml").read_text()
    service = compose.partition("\n  api:\n")[2].partition("\n\n")[0]
    assert f"pids_limit: {resources.API_THREADS_LIMIT}\n" in service


@pytest.mark.parametrize(("reserve", "warned"), [(0, False), (1, False), (2, True), (5, True)])
def test_a_reserve_that_leaves_no_room_for_cancel_requests_is_warned_of(
    tmp_path: Path, reserve: int, warned: bool
) -> None:
    found = judge(tmp_path, PGBOUNCER_INTERACTIVE_RESERVE_SIZE=reserve)
    said = f"PGBOUNCER_INTERACTIVE_RESERVE_SIZE={reserve} is not below"
    assert any(said in str(one) for one in found.warnings) == warned


THREE: dict[str, object] = {
    "POSTGRES_INSTANCES": 3,
    "PGBOUNCER_SERVER_HOP": "tls",
    "POSTGRES_BACKUP_CONNECTIONS": 6,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"POSTGRES_INSTANCES": 2}, "POSTGRES_INSTANCES=2 has no majority"),
        ({"POSTGRES_INSTANCES": 4}, "POSTGRES_INSTANCES=4 is outside 1..3"),
        (THREE | {"PGBOUNCER_SERVER_HOP": "socket"}, "PGBOUNCER_SERVER_HOP=socket leads to one"),
        (THREE | {"POSTGRES_BACKUP_CONNECTIONS": 2}, "POSTGRES_BACKUP_CONNECTIONS=2 is below 4"),
    ],
)
def test_what_three_instances_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    (fault,) = judge(tmp_path, **changes).faults
    assert said in fault.message


def test_three_instances_are_one_line(tmp_path: Path) -> None:
    present = (REPOSITORY / "infra" / "env" / "stack.env").read_text(encoding="utf-8")
    (tmp_path / "stack.env").write_text(f"{present}POSTGRES_INSTANCES=3\n", encoding="utf-8")
    found = check(tmp_path / "stack.env")
    assert found.faults == ()
    values = found.values
    assert values.text("PGBOUNCER_SERVER_HOP") == "tls"
    entries = {pool.entry: pool.port for pool in sizing.pools(values)}
    assert entries["risk"] == 5432
    assert entries["risk_ro"] == 5433


def test_the_log_that_waits_is_judged_with_what_standbys_take(tmp_path: Path) -> None:
    found = messages(
        judge(tmp_path, POSTGRES_INSTANCES=3, POSTGRES_DISK_MB=20480, BACKUP_QUEUE_MB=8000)
    )
    assert "BACKUP_QUEUE_MB=8000 + POSTGRES_MAX_WAL_MB=1024 x 3 exceeds 10240 MB" in found
