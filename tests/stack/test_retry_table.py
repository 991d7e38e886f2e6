"""Each row of the retry table, provoked on the real path and classified by the pool."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fix_faults import hold
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll

# What the server or the pooler says by itself: name -> (class, SQLSTATE).
BY_ITSELF = {
    "serialization": ("conflict", "40001"),
    "deadlock": ("conflict", "40P01"),
    "lock_timeout": ("conflict", "55P03"),
    "terminated": ("lost", "57P01"),
    "read_only": ("wrong_server", "25006"),
    "unknown_prepared": ("stale_plan", "26000"),
    "prepared_twice": ("stale_plan", "42P05"),
    "statement_timeout": ("time_limit", "57014"),
    "idle_in_transaction": ("time_limit", "25P03"),
    "transaction_timeout": ("time_limit", "25P04"),
    "disk_full": ("resources", "53100"),
    "out_of_memory": ("resources", "53200"),
    "io_error": ("resources", "58030"),
    "division_by_zero": ("permanent", "22012"),
    "not_null": ("permanent", "23502"),
    "unique": ("duplicate", "23505"),
    "no_such_table": ("permanent", "42P01"),
}


@pytest.fixture(scope="module")
def table(sql: Sql) -> Iterator[str]:
    """Make the table that the provocations use, and drop it afterwards."""
    sql.rows("DROP TABLE IF EXISTS risk.probe")
    sql.rows("CREATE TABLE risk.probe (key int PRIMARY KEY, value int NOT NULL DEFAULT 0)")
    sql.rows("INSERT INTO risk.probe VALUES (1), (2)")
    sql.rows("GRANT SELECT, INSERT, UPDATE ON risk.probe TO risk_api")
    yield "risk.probe"
    sql.rows("DROP TABLE risk.probe")


@pytest.fixture(scope="module")
def provoked(table: str, probe: Probe) -> dict[str, dict[str, str]]:
    """Return what every failure of BY_ITSELF looked like on the deployed path."""
    return dict(probe("retry_rows", *BY_ITSELF))


@pytest.fixture
def provoke(probe: Probe) -> Iterator[Any]:
    """Return a starter of one provocation beside the test; its result is a future."""
    with ThreadPoolExecutor(1) as threads:
        yield lambda name: threads.submit(lambda: probe("retry_rows", name)[name])


@pytest.mark.parametrize("name", BY_ITSELF)
def test_the_failure_is_classified(provoked: dict[str, dict[str, str]], name: str) -> None:
    found = provoked[name]
    assert (found["class"], found["sqlstate"]) == BY_ITSELF[name], found["text"]


def test_a_changed_result_type_is_a_stale_plan(sql: Sql, table: str, provoke: Any) -> None:
    answer = provoke("stale_plan")
    prepared = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND query LIKE '%''risk.probe''::regclass'"
    )
    poll(lambda: int(sql.value(prepared)) > 0, seconds=20, what="the probe runs its statement")
    hold(0.5)
    sql.rows(f"ALTER TABLE {table} ADD COLUMN later int")
    found = answer.result()
    assert (found["class"], found["sqlstate"]) == ("stale_plan", "0A000"), found


def test_a_wait_in_the_poolers_queue_that_ran_out_never_started(
    console: AdminConsole, provoke: Any
) -> None:
    console.on_all("PAUSE risk")
    try:
        found = provoke("query").result()
    finally:
        console.on_all("RESUME risk")
    assert "query_wait_timeout" in found["text"]
    assert (found["class"], found["sqlstate"]) == ("not_started", "08P01")


def test_a_full_pooler_never_started(console: AdminConsole, provoke: Any) -> None:
    console.on_all("SET max_client_conn = 1")
    try:
        found = provoke("query").result()
    finally:
        console.on_all("RELOAD")
    assert "no more connections allowed" in found["text"]
    assert found["class"] == "not_started"


def test_a_server_that_lets_nobody_in_is_a_login_that_fails(
    stack: Stack, sql: Sql, console: AdminConsole, provoke: Any
) -> None:
    replicas = range(len(stack.containers("pgbouncer")))

    def logged_in(replica: int) -> bool:
        servers = console.show("SERVERS", replica=replica)
        serving = {"active", "idle", "used"}
        return any(row["user"] == "risk_api" and row["state"] in serving for row in servers)

    limit = sql.value("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'risk_api'")
    sql.rows("ALTER ROLE risk_api CONNECTION LIMIT 0")
    try:
        sql.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'risk_api'"
        )
        found = provoke("query").result()
    finally:
        sql.rows(f"ALTER ROLE risk_api CONNECTION LIMIT {limit}")
    # A replica answers with the failed login until a client has made it try again.
    poll(
        lambda: (provoke("query").result(), all(map(logged_in, replicas)))[1],
        seconds=60,
        what="a login of every replica",
    )
    assert "too many connections for role" in found["text"]
    assert found["class"] == "not_started", found


def test_a_pooler_that_drops_the_client_is_lost(
    sql: Sql, console: AdminConsole, provoke: Any
) -> None:
    answer = provoke("long_query")
    running = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query = 'SELECT pg_sleep(2.5)' AND state = 'active'"
    )
    poll(lambda: sql.value(running) == "1", seconds=20, what="the statement runs")
    console.on_all("KILL risk")
    console.on_all("RESUME risk")
    assert answer.result()["class"] == "lost"


@pytest.mark.parametrize("service", ["api", "worker"])
def test_a_commit_whose_answer_is_lost_is_resolved_by_lookup(
    sql: Sql, probe: Probe, service: str
) -> None:
    sql.rows("DROP TABLE IF EXISTS risk.probe_keys")
    sql.rows("CREATE TABLE risk.probe_keys (key text UNIQUE)")
    sql.rows(f"GRANT SELECT, INSERT, DELETE ON risk.probe_keys TO risk_{service}")
    try:
        report = probe(
            "commit_cut", service=service, environment={"PROBE_TABLE": "risk.probe_keys"}
        )
    finally:
        sql.rows("DROP TABLE risk.probe_keys")
    assert report["keys"] == report["rows"] > 0
