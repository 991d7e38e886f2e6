"""What one client leaves on a server connection is found, and a clean stack has nothing found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infra.ops.outcome import Exit
from tests.command import Done
from tests.fix_faults import frozen
from tests.fix_ops import Commands, EnvDir
from tests.fix_probe import Probe
from tests.fix_sql import Sql
from tests.fix_stack import Stack, poll

# Each as a client of a pool would send it, with the rule that finds it.
LEAKS = {
    "SET work_mem = '5MB'": "session-setting",
    "SET search_path TO risk": "session-search-path",
    "SET ROLE risk_api": "session-role",
    "LISTEN doctor": "listen",
    "SELECT pg_advisory_lock(4711)": "session-advisory-lock",
    "DECLARE doctor CURSOR WITH HOLD FOR SELECT 1": "cursor-with-hold",
    "CREATE TEMPORARY TABLE doctor (id int)": "temporary-object",
}
LIVE = {"idle-advisory-lock", "left-temporary-object"}
SECRET = "canary-of-the-doctor"  # noqa: S105  # no secret


def found(document: dict[str, Any]) -> set[str]:
    """Return the rules of the findings."""
    return {one["rule"] for one in document["findings"]}


def is_clean(ops: Commands, env: EnvDir) -> Done | None:
    """Return a run without a finding above a note."""
    done = ops.script("doctor", "--json", env=env)
    above = [one for one in done.document["findings"] if one["severity"] != "note"]
    return None if above else done


@pytest.fixture
def clean(ops: Commands, sql: Sql) -> Iterator[None]:
    """Have new server connections and no statement remembered, before and after."""

    def put_back() -> None:
        sql.rows("REVOKE TEMPORARY ON DATABASE risk FROM risk_api")
        done = ops.run("pgbouncer", "reconnect")
        assert done.exit_code == Exit.OK, done.text
        sql.rows("SELECT public.pg_stat_statements_reset()")

    put_back()
    yield
    put_back()


@pytest.mark.usefixtures("clean")
def test_what_a_client_leaves_is_found_and_a_clean_stack_is_clean(
    ops: Commands, sql: Sql, probe: Probe, env: EnvDir
) -> None:
    # What ran before may have left dead rows for autovacuum.
    before = poll(lambda: is_clean(ops, env), seconds=60, what="no finding above a note", every=1)
    assert before
    assert before.document["not_judged"] == []
    assert before.exit_code == Exit.OK, before.text

    sql.rows("GRANT TEMPORARY ON DATABASE risk TO risk_api")
    statements = [f"SET app.token = '{SECRET}'", "BEGIN", *LEAKS, "COMMIT"]
    answer = probe("connect", *(f"sql:{one}" for one in statements))
    assert answer == {"connected": True, "error": "", "errors": [""] * len(statements)}
    leaking = ops.run("doctor", "--json")
    assert leaking.exit_code == leaking.document["exit_code"] == Exit.FAILED
    assert found(leaking.document) >= {*LEAKS.values(), *LIVE}
    assert SECRET not in leaking.text
    assert [one["what"] for one in leaking.document["not_judged"]] == ["containers and disk"]


def test_files_are_judged_by_make_without_the_stack(ops: Commands, env: EnvDir) -> None:
    (env.path / "a.sql").write_text("SELECT 1;\nLISTEN a;\n", encoding="ascii")
    done = ops.make("doctor", f"SQL={env.path}", "JSON=yes", env=env)
    assert [(one["where"], one["line"], one["rule"]) for one in done.document["findings"]] == [
        ("a.sql", 2, "listen")
    ]
    nothing = ops.make("doctor", f"SQL={env.path / 'presets'}", "JSON=yes", env=env)
    assert nothing.document["exit_code"] == Exit.BAD_INPUT
    assert "has no SQL" in nothing.document["faults"][0]


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_with_postgres_frozen_the_rest_is_judged(stack: Stack, ops: Commands) -> None:
    with frozen(stack.containers("postgres")):
        done = ops.run("doctor", "--json")
    assert done.exit_code == Exit.FAILED
    assert "bottleneck" in found(done.document)
    left_out = {one["what"]: one["reason"] for one in done.document["not_judged"]}
    assert {"postgres", "settings", "sequences", "statements of pooled roles"} <= set(left_out)
    assert all(left_out.values())
