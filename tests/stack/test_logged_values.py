"""No value of a row, a parameter or a statement is in any log, whatever error quotes it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fix_api import Api, assessment_body
from tests.fix_probe import Probe
from tests.fix_sql import Sql
from tests.fix_stack import TIERS, Stack, run_in

TRIGGER = """
CREATE FUNCTION risk.refuse_canary() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused: %', NEW.idempotency_key USING DETAIL = NEW.idempotency_key; END $$;
CREATE TRIGGER refuse_canary BEFORE INSERT ON risk.assessments FOR EACH ROW
WHEN (NEW.idempotency_key LIKE 'canary%') EXECUTE FUNCTION risk.refuse_canary();
"""


@pytest.fixture
def canary() -> str:
    """Return a number that is nowhere else."""
    return str(time.time_ns())


@pytest.fixture
def refusing_trigger(sql: Sql) -> Iterator[None]:
    """Have the table refuse an assessment with a canary's key, and quote it."""
    sql.rows(TRIGGER)
    yield
    sql.rows("DROP FUNCTION risk.refuse_canary() CASCADE")


def logs(stack: Stack) -> dict[str, str]:
    """Return what every container of the stack has logged, by its name."""
    services = (*TIERS, "config", "migrate")
    containers = [one for name in services for one in stack.containers(name, all_states=True)]
    return {str(one.name): one.logs().decode(errors="replace") for one in containers}


@dataclass(frozen=True)
class Quoted:
    """A value, and what the client of each path was told that quotes it."""

    canary: str
    told: dict[str, str]


@pytest.fixture(scope="module", params=["api", "worker"])
def quoted(probe: Probe, request: pytest.FixtureRequest) -> Quoted:
    """Have a service's role drive every path once."""
    canary = str(time.time_ns())
    return Quoted(canary, probe("quoting", canary, service=request.param))


def test_no_error_path_of_the_database_reaches_a_log_with_the_value(
    stack: Stack, quoted: Quoted
) -> None:
    assert [name for name, text in quoted.told.items() if text == "no error"] == ["slow"]
    # Who made the error is told; these quote nothing to their client, but a statement to the log.
    silent = {"division", "raise in a function", "refused role", "refused password", "timeout"}
    assert {name for name, text in quoted.told.items() if quoted.canary not in text} == silent | {
        "slow",
        "deadlock",
    }
    assert [name for name, text in logs(stack).items() if quoted.canary in text] == []


def test_a_wait_for_a_lock_is_logged_with_role_and_queryid(stack: Stack, quoted: Quoted) -> None:
    assert "deadlock detected" in quoted.told["deadlock"]
    lines = stack.container("postgres").logs().decode().splitlines()
    waits = [line for line in lines if "still waiting for" in line or "detected deadlock" in line]
    assert re.search(
        r" 00000 risk_(api|worker)@risk sluice-\w+(/\S+)? -?[1-9]\d* LOG:  ", waits[-1]
    )


def test_the_superuser_s_error_is_logged_by_sqlstate_and_constraint_only(
    stack: Stack, canary: str
) -> None:
    postgres = stack.container("postgres")
    same = f"INSERT INTO pg_temp.canaries VALUES ('{canary}')"
    statements = f"CREATE TEMP TABLE canaries (key text PRIMARY KEY); {same}; {same}"
    assert run_in(postgres, ["psql", "--dbname=risk", "--command", statements])[0] != 0
    refused = f"ALTER ROLE postgres SUPERUSER PASSWORD '{canary}' VALID UNTIL 'never'"
    assert run_in(postgres, ["psql", "--command", refused])[0] != 0
    printed = postgres.logs().decode()
    assert canary not in printed
    expected = 'ERROR:  duplicate key value violates unique constraint "canaries_pkey"'
    assert any(
        " 23505 postgres@risk psql " in one and expected in one for one in printed.splitlines()
    )


@pytest.mark.usefixtures("refusing_trigger")
def test_the_api_logs_class_and_sqlstate_of_an_error_and_not_what_it_quotes(
    stack: Stack, api: Api, canary: str
) -> None:
    answer = api.submit(assessment_body(), key=f"canary{canary}")
    assert answer.status_code == 500
    assert canary not in answer.text
    found = logs(stack)
    assert [name for name, text in found.items() if canary in text] == []
    printed = found[str(stack.container("api").name)]
    assert "RaiseException P0001: raised by exec_stmt_raise" in printed
    assert answer.headers["X-Request-Id"] in printed
