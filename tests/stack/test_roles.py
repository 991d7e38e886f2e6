"""What the roles may not do."""

from __future__ import annotations

import pytest

from tests.fix_probe import Probe
from tests.fix_sql import Sql

DENIED = {
    "create a table": "CREATE TABLE risk.intruder ()",
    "create a table in public": "CREATE TABLE public.intruder ()",
    "create a temporary table": "CREATE TEMP TABLE intruder ()",
    "drop a table": "DROP TABLE risk.tasks",
    "truncate a table": "TRUNCATE risk.tasks",
    "change a table": "ALTER TABLE risk.tasks ADD COLUMN intruder int",
    "write reference data": "UPDATE reference.population SET population = 0",
    "read password verifiers": "SELECT rolpassword FROM pg_authid",
    "become the owner": "SET ROLE risk_owner",
    "become the operator": "SET ROLE sluice_operator",
    "create a role": "CREATE ROLE intruder",
    "read a server file": "SELECT pg_read_file('/etc/passwd')",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "end another session": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE usename = 'sluice_monitor' OR backend_type = 'checkpointer'",
    "reload the server": "SELECT pg_reload_conf()",
    "create an extension": "CREATE EXTENSION file_fdw SCHEMA risk",
    "create a schema": "CREATE SCHEMA intruder",
    "change a server setting": "ALTER SYSTEM SET work_mem = '1GB'",
}

# insufficient_privilege; ALTER SYSTEM is switched off for everybody: feature_not_supported.
REFUSALS = ("42501", "0A000 ALTER SYSTEM is not allowed")


@pytest.fixture(scope="module", params=["api", "worker"])
def errors(probe: Probe, request: pytest.FixtureRequest) -> dict[str, str]:
    """Return what each statement comes to for a service; each is a transaction of its own."""
    statements = [f"sql:{statement}" for statement in DENIED.values()]
    answer = probe("connect", *statements, service=request.param)
    assert answer["connected"], answer
    return dict(zip(DENIED, answer["errors"], strict=True))


@pytest.mark.parametrize("what", DENIED)
def test_the_service_role_cannot(errors: dict[str, str], what: str) -> None:
    assert errors[what].startswith(REFUSALS), errors[what]


def test_no_login_role_is_a_superuser(sql: Sql) -> None:
    names = sql.rows("SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolsuper")
    assert [row["rolname"] for row in names] == ["postgres"]


def test_public_may_neither_connect_nor_create(sql: Sql) -> None:
    granted = sql.rows(
        "SELECT datname FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))"
        " WHERE grantee = 0 AND datallowconn AND privilege_type IN ('CONNECT', 'TEMPORARY')"
        " AND datname IN ('risk', 'postgres')"
        " UNION ALL SELECT nspname FROM pg_namespace,"
        " aclexplode(coalesce(nspacl, acldefault('n', nspowner)))"
        " WHERE grantee = 0 AND privilege_type = 'CREATE'"
    )
    assert granted == []


@pytest.mark.parametrize("role", ["risk_api", "risk_worker"])
def test_timeouts_are_set_on_the_role_shortest_first(sql: Sql, role: str) -> None:
    settings = sql.rows(
        "SELECT split_part(one, '=', 1) AS name, split_part(one, '=', 2) AS value"
        f" FROM pg_roles, unnest(rolconfig) AS one WHERE rolname = '{role}'"
    )
    ms = {
        row["name"]: int(row["value"].removesuffix("ms"))
        for row in settings
        if "timeout" in row["name"]
    }
    order = [
        "lock_timeout",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
    ]
    values = [ms[name] for name in order]
    assert values == sorted(set(values)), ms
    assert values[0] > 0


def test_every_network_role_has_a_connection_limit(sql: Sql) -> None:
    unlimited = sql.rows(
        "SELECT rolname FROM pg_roles"
        " WHERE rolcanlogin AND rolconnlimit < 0 AND rolname <> 'postgres'"
    )
    assert unlimited == []


def test_the_operator_reads_the_state_of_tasks_and_nothing_else_of_the_service(sql: Sql) -> None:
    readable = sql.rows(
        "SELECT n.nspname || '.' || c.relname || '.' || a.attname AS column"
        " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('risk', 'reference') AND c.relkind IN ('r', 'p', 'v', 'm')"
        " AND has_column_privilege('sluice_operator', c.oid, a.attnum, 'SELECT')"
    )
    assert [row["column"] for row in readable] == ["risk.tasks.state"]
