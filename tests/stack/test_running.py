"""What is configured is what runs, on every process of every tier."""

from __future__ import annotations

import configparser
import json
import math
from typing import Any

import pytest

from tests.fix_sql import AdminConsole, Row, Sql
from tests.fix_stack import Stack, run_in


def pgbouncer_ini(stack: Stack) -> configparser.ConfigParser:
    """Return the compiled configuration as PgBouncer's containers see it."""
    code, text = run_in(stack.container("pgbouncer"), ["cat", "/etc/sluice/pgbouncer.ini"])
    assert code == 0
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(text)
    return parser


def replicas(stack: Stack) -> range:
    """Return the numbers of the PgBouncer replicas."""
    return range(len(stack.containers("pgbouncer")))


def test_every_pgbouncer_setting_runs_on_every_replica(stack: Stack, console: AdminConsole) -> None:
    configured = dict(pgbouncer_ini(stack)["pgbouncer"])
    assert len(configured) > 30
    for replica in replicas(stack):
        running = {row["key"]: row["value"] for row in console.show("CONFIG", replica=replica)}
        # The one setting that PgBouncer reads as octal and shows as decimal.
        running["unix_socket_mode"] = f"{int(running['unix_socket_mode']):04o}"
        differs = {
            key: (value, running.get(key))
            for key, value in configured.items()
            if running.get(key) != value
        }
        assert differs == {}


def test_every_pgbouncer_pool_has_its_settings_size(
    stack: Stack, console: AdminConsole, settings: dict[str, str]
) -> None:
    for replica in replicas(stack):
        entries = {row["name"]: row for row in console.show("DATABASES", replica=replica)}
        assert entries["risk"]["pool_size"] == settings["PGBOUNCER_INTERACTIVE_POOL_SIZE"]
        assert entries["risk_batch"]["pool_size"] == settings["PGBOUNCER_BATCH_POOL_SIZE"]
        for name in ("risk", "risk_batch"):
            entry = entries[name]
            cap = int(entry["pool_size"]) + int(entry["reserve_pool_size"])
            assert int(entry["max_connections"]) == cap
            assert entry["pool_mode"] in ("", "transaction")


def test_there_are_as_many_pgbouncers_and_workers_as_the_settings_say(
    stack: Stack, settings: dict[str, str]
) -> None:
    assert len(stack.containers("pgbouncer")) == int(settings["PGBOUNCER_REPLICAS"])
    assert len(stack.containers("worker")) == int(settings["WORKER_REPLICAS"])


def test_postgresql_applied_every_line_of_its_file(sql: Sql) -> None:
    lines = sql.rows("SELECT name, setting, applied, error FROM pg_file_settings")
    assert len(lines) > 60
    assert [line for line in lines if line["applied"] != "t" or line["error"]] == []
    waiting = sql.rows("SELECT name FROM pg_settings WHERE pending_restart")
    assert waiting == []


def test_postgresql_settings_are_the_files_and_not_another_sources(sql: Sql) -> None:
    """A setting that the file gives must come from the file, not from a command line."""
    elsewhere = sql.rows(
        "SELECT name, source FROM pg_settings JOIN pg_file_settings USING (name)"
        " WHERE source NOT IN ('configuration file', 'client', 'override')"
        " AND name NOT IN (SELECT split_part(one, '=', 1) FROM pg_roles, unnest(rolconfig) AS one)"
    )
    assert elsewhere == []


@pytest.mark.parametrize(
    ("parameter", "setting"),
    [
        ("max_connections", "POSTGRES_MAX_CONNECTIONS"),
        ("superuser_reserved_connections", "POSTGRES_SUPERUSER_RESERVED_CONNECTIONS"),
        ("reserved_connections", "POSTGRES_RESERVED_CONNECTIONS"),
        ("autovacuum_max_workers", "POSTGRES_AUTOVACUUM_WORKERS"),
        ("max_wal_size", "POSTGRES_MAX_WAL_MB"),
        ("checkpoint_timeout", "POSTGRES_CHECKPOINT_TIMEOUT_SECONDS"),
        ("auto_explain.log_min_duration", "POSTGRES_SLOW_STATEMENT_MS"),
    ],
)
def test_the_setting_reached_postgresql(
    sql: Sql, settings: dict[str, str], parameter: str, setting: str
) -> None:
    found = sql.value(f"SELECT setting FROM pg_settings WHERE name = '{parameter}'")
    assert found == settings[setting]


def test_shared_buffers_are_the_stated_share_of_the_memory(
    sql: Sql, settings: dict[str, str]
) -> None:
    blocks = int(sql.value("SELECT setting FROM pg_settings WHERE name = 'shared_buffers'"))
    share = blocks * 8 / 1024 / int(settings["POSTGRES_MEMORY_MB"])
    assert math.isclose(share * 100, int(settings["POSTGRES_SHARED_BUFFERS_PERCENT"]), abs_tol=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jit", "off"),
        ("max_replication_slots", "0"),
        ("huge_pages", "try"),
        ("ssl", "on"),
        ("password_encryption", "scram-sha-256"),
        ("log_parameter_max_length", "0"),
        ("log_parameter_max_length_on_error", "0"),
        ("log_error_verbosity", "terse"),
        ("log_min_error_statement", "panic"),
        ("fsync", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
    ],
)
def test_the_fixed_setting_runs(sql: Sql, setting: str, value: str) -> None:
    assert sql.value(f"SHOW {setting}") == value


def test_statements_are_counted(sql: Sql) -> None:
    counted = sql.value("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%risk.tasks%'")
    assert int(counted) > 0


def role_settings(sql: Sql, role: str) -> dict[str, str]:
    """Return what ALTER ROLE ... SET holds for a role."""
    rows: list[Row] = sql.rows(
        "SELECT split_part(one, '=', 1) AS name, split_part(one, '=', 2) AS value"
        f" FROM pg_roles, unnest(rolconfig) AS one WHERE rolname = '{role}'"
    )
    return {row["name"]: row["value"] for row in rows}


def test_only_the_owner_may_sort_without_a_limit_on_disk(
    sql: Sql, settings: dict[str, str]
) -> None:
    limit = int(sql.value("SELECT setting FROM pg_settings WHERE name = 'temp_file_limit'"))
    assert 0 < limit < int(settings["POSTGRES_DISK_MB"]) * 1024 // 4
    assert role_settings(sql, "risk_owner")["temp_file_limit"] == "-1"
    assert "temp_file_limit" not in role_settings(sql, "risk_worker")


@pytest.mark.parametrize(("role", "prefix"), [("risk_api", "API"), ("risk_worker", "WORKER")])
def test_role_timeouts_are_the_settings(
    sql: Sql, settings: dict[str, str], role: str, prefix: str
) -> None:
    found = role_settings(sql, role)
    assert found["lock_timeout"] == f"{settings[f'{prefix}_LOCK_TIMEOUT_MS']}ms"
    assert found["statement_timeout"] == f"{settings[f'{prefix}_STATEMENT_TIMEOUT_MS']}ms"
    assert found["transaction_timeout"] == f"{settings[f'{prefix}_TRANSACTION_TIMEOUT_MS']}ms"


def opened_pool(stack: Stack, service: str) -> dict[str, Any]:
    """Return the log line in which a service states the arguments of the pool it opened."""
    lines = stack.container(service).logs().decode().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    opened = [event for event in events if event.get("event") == "pool opened"]
    assert opened, f"{service} did not log its pool"
    return dict(opened[-1])


@pytest.mark.parametrize(("service", "prefix"), [("api", "API"), ("worker", "WORKER")])
def test_every_pool_argument_is_its_setting(
    stack: Stack, settings: dict[str, str], service: str, prefix: str
) -> None:
    pool = opened_pool(stack, service)
    expected = {
        "min_size": float(settings[f"{prefix}_POOL_MIN_SIZE"]),
        "max_size": float(settings[f"{prefix}_POOL_MAX_SIZE"]),
        "timeout_seconds": float(settings[f"{prefix}_POOL_TIMEOUT_MS"]) / 1000,
        "max_waiting": float(settings[f"{prefix}_POOL_MAX_WAITING"]),
        "max_lifetime_seconds": float(settings["APP_POOL_MAX_LIFETIME_SECONDS"]),
        "max_idle_seconds": float(settings["APP_POOL_MAX_IDLE_SECONDS"]),
        "reconnect_timeout_seconds": float(settings["APP_POOL_RECONNECT_TIMEOUT_SECONDS"]),
        "check_idle_seconds": float(settings["APP_POOL_CHECK_IDLE_SECONDS"]),
        "connect_timeout_seconds": float(settings["APP_CONNECT_TIMEOUT_SECONDS"]),
        "tcp_user_timeout_ms": float(settings["TCP_USER_TIMEOUT_MS"]),
        "prepare_threshold": float(settings["APP_PREPARE_THRESHOLD"]),
        "prepared_max": float(settings["APP_PREPARED_MAX"]),
    }
    assert {name: pool[name] for name in expected} == expected
    assert pool["application_name"].startswith(f"sluice-{service}")
