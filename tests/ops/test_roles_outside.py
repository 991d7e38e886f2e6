"""What a role does to itself, or somebody to it by hand: found, named, and put back by apply."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fix_api import Api, assessment_body
from tests.fix_host import Host
from tests.fix_ops import Commands
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack, poll, run_in

RUNBOOK = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
# What PostgreSQL lets a role do to itself, sent through PgBouncer as its clients are let in.
ITSELF = (
    "ALTER ROLE risk_api PASSWORD 'an-own-password'",
    "ALTER ROLE risk_api SET default_transaction_read_only = on",
    "ALTER ROLE risk_api SET statement_timeout = 0",
    "ALTER ROLE risk_api IN DATABASE risk SET search_path = nowhere",
)
BY_HAND = (
    "ALTER ROLE risk_worker NOLOGIN VALID UNTIL '2020-01-01'",
    "GRANT risk_owner TO risk_api",
    "ALTER ROLE ALL IN DATABASE risk SET work_mem = '64kB'",
    "ALTER ROLE sluice_monitor CREATEDB",
)
FOUND = {
    "roles.risk_api.password": "another",
    "roles.risk_api.default_transaction_read_only": "on",
    "roles.risk_api.statement_timeout": "0",
    "roles.risk_api@risk.search_path": "nowhere",
    "roles.risk_worker.login": "off",
    "roles.risk_worker.valid_until": "2020-01-01 00:00:00+00",
    "roles.risk_api.member_of": "risk_owner",
    "roles.all@risk.work_mem": "64",
    "roles.sluice_monitor.createdb": "on",
}
PERSON = "sluice_operator"


@pytest.fixture
def put_back(host: Host, stack: Stack) -> Iterator[None]:
    """After the test, have every role as compiled, whatever happened."""
    yield
    code, printed = host.run("apply")
    assert code == 0, printed
    stack.wait_healthy()


@pytest.mark.usefixtures("put_back")
def test_what_was_set_outside_on_roles_is_named_and_put_back_live(
    api: Api, sql: Sql, ops: Commands, host: Host, probe: Probe
) -> None:
    answer = probe("connect", *(f"sql:{one}" for one in ITSELF))
    assert answer["errors"] == [""] * len(ITSELF)
    for statement in BY_HAND:
        sql.rows(statement)

    drift = ops.run("plan", "--json").document["drift"]
    assert {one["setting"]: one["found"] for one in drift} == FOUND
    causes = {one["setting"]: one["cause"] for one in drift}
    assert causes["roles.risk_api.password"] == "ALTER ROLE risk_api PASSWORD"
    shown = ops.run("plan").text
    assert "set outside: ALTER ROLE risk_api SET default_transaction_read_only" in shown
    assert "SCRAM-SHA-256" not in shown
    verdict = ops.run("status", "--json").document["bottleneck"]
    assert "\n| `set outside: NAME is` |" in RUNBOOK
    assert verdict["where"] == "roles"
    assert verdict["line"].startswith("set outside: roles.")
    assert verdict["command"] == "make apply"

    code, printed = host.run("apply")
    assert code == 0, printed
    assert "set outside: ALTER ROLE risk_api PASSWORD" in printed
    assert "SCRAM-SHA-256" not in printed
    assert ops.run("plan", "--json").document["drift"] == []
    # Through server connections that have begun since.
    assert api.run(assessment_body())["status"] == "succeeded"
    assert ops.run("status", "--json").document["bottleneck"]["where"] != "roles"


@pytest.mark.usefixtures("put_back")
def test_an_operator_whose_password_was_changed_gets_in_again(
    sql: Sql, ops: Commands, host: Host
) -> None:
    sql.rows(f"ALTER ROLE {PERSON} PASSWORD 'a-new-password'")
    verdict = ops.run("status", "--json").document["bottleneck"]
    assert (verdict["where"], verdict["command"]) == ("roles", "make apply")
    code, printed = host.run("apply")
    assert code == 0, printed
    assert "it was set outside" in printed


@pytest.mark.usefixtures("put_back")
def test_a_process_that_was_told_to_read_its_files_is_started_again_when_it_ends(
    stack: Stack, sql: Sql, host: Host
) -> None:
    """Docker leaves what it was asked to signal where it is, whatever the signal was."""
    sql.rows(f"ALTER ROLE {PERSON} PASSWORD 'a-new-password'")
    code, printed = host.run("apply")
    assert code == 0, printed
    pooler = stack.container("pgbouncer")
    began = pooler.attrs["State"]["StartedAt"]
    run_in(pooler, ["sh", "-c", "kill -QUIT 1"])

    def started_again() -> bool:
        pooler.reload()
        return bool(pooler.attrs["State"]["StartedAt"] != began)

    poll(started_again, seconds=30, what="Docker starts the replica again")


def outdated(console: AdminConsole, replicas: int) -> int:
    """Return how many server connections are to be replaced."""
    rows = [row for one in range(replicas) for row in console.show("SERVERS", replica=one)]
    return sum(row["close_needed"] == "1" for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("put_back")
def test_a_server_connection_that_has_other_settings_than_its_role_is_replaced(
    stack: Stack, sql: Sql, ops: Commands, console: AdminConsole, probe: Probe
) -> None:
    usual = sql.value(
        "SELECT split_part(one, '=', 2) FROM pg_roles, unnest(rolconfig) AS one"
        " WHERE rolname = 'risk_api' AND one LIKE 'statement_timeout=%'"
    )
    replicas = len(stack.containers("pgbouncer"))
    sql.rows("ALTER ROLE risk_api SET statement_timeout = 0")
    console.on_all("RECONNECT")
    poll(lambda: not outdated(console, replicas), seconds=30, what="new server connections")
    sql.rows(f"ALTER ROLE risk_api SET statement_timeout = '{usual}'")

    first = ops.run("apply", "--json").document
    assert first["exit_code"] == 0
    (step, *_) = [one for one in first["steps"] if "sessions.risk.statement_timeout" in one]
    assert "SET statement_timeout by a client of risk" in step
    assert first["deviations"] == []
    # Which ends with its transaction, although the session is named as its source from then on.
    level = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"
    answer = probe("connect", f"sql:BEGIN; {level}; COMMIT")
    assert answer["errors"] == [""]
    again = ops.run("apply", "--json").document
    assert not [one for one in again["steps"] if "sessions.risk" in one]


@pytest.mark.usefixtures("put_back")
def test_a_limit_that_clients_took_from_every_server_connection_is_given_back(
    ops: Commands, probe: Probe
) -> None:
    probe("session_state", "3", "leave")
    first = ops.run("apply", "--json").document
    assert first["exit_code"] == 0
    kept = [one for one in first["steps"] if "sessions.risk.statement_timeout is 0" in one]
    assert len(kept) == 2
    assert first["deviations"] == []
    limit = "SELECT 1 / (current_setting('statement_timeout') <> '0')::integer"
    found = [probe("connect", *[f"sql:{limit}"] * 6) for _ in range(2)]
    assert [one["errors"] for one in found] == [[""] * 6] * 2
