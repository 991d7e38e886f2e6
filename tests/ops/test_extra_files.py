"""Parameters without a setting: applied live or by a restart, and gone with their line."""

from __future__ import annotations

import pytest

from infra.config.extra import PGBOUNCER_FILE, POSTGRES_FILE, key
from tests.command import Done
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack
from tests.ops import witness

NEEDS_RESTART = 4
CLUSTER_NAME = "SELECT quote_literal(current_setting('cluster_name')) AS name"


def _write(env: EnvDir, postgres: str = "", pgbouncer: str = "") -> EnvDir:
    for file, text in ((POSTGRES_FILE, postgres), (PGBOUNCER_FILE, pgbouncer)):
        (env.path / file).unlink(missing_ok=True)
        if text:
            (env.path / file).write_text(text, encoding="utf-8")
    return env


def _planned(ops: Commands, env: EnvDir) -> dict[str, tuple[object, object, object]]:
    found = ops.run("plan", "--json", env_dir=env.path).document["differences"]
    return {one["setting"]: (one["was"], one["now"], one["change"]) for one in found}


def _of_pgbouncer(stack: Stack, console: AdminConsole, name: str) -> set[str]:
    return {config[name] for config in witness.configs(stack, console).values()}


def _ok(done: Done) -> None:
    assert done.exit_code == 0, done.text


def test_a_line_is_applied_live_and_without_it_the_default_is_back(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    applied_again: None,
) -> None:
    before = sql.value("SHOW bgwriter_delay"), _of_pgbouncer(stack, console, "server_fast_close")
    assert before == ("200ms", {"0"})
    _write(env, "bgwriter_delay = 50ms\n", "server_fast_close = 1\n")
    assert _planned(ops, env) == {
        key(POSTGRES_FILE, "bgwriter_delay"): ("200ms", "50ms", "live"),
        key(PGBOUNCER_FILE, "server_fast_close"): ("0", "1", "live"),
    }
    _ok(ops.apply(env))
    assert sql.value("SHOW bgwriter_delay") == "50ms"
    assert _of_pgbouncer(stack, console, "server_fast_close") == {"1"}
    assert _planned(ops, env) == {}
    _write(env)
    assert _planned(ops, env) == {
        key(POSTGRES_FILE, "bgwriter_delay"): ("50ms", "server default", "live"),
        key(PGBOUNCER_FILE, "server_fast_close"): ("1", "server default", "live"),
    }
    _ok(ops.apply(env))
    after = sql.value("SHOW bgwriter_delay"), _of_pgbouncer(stack, console, "server_fast_close")
    assert after == before
    assert _planned(ops, env) == {}


@pytest.mark.slow
def test_a_line_that_takes_a_restart_waits_for_it(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    ops: Commands,
    env: EnvDir,
    applied_again: None,
) -> None:
    tracked = "track_extra_parameters"
    usual = _of_pgbouncer(stack, console, tracked)
    _write(env, "cluster_name = 'the second'\n", f"{tracked} = search_path\n")
    waiting = ops.apply(env)
    assert waiting.exit_code == NEEDS_RESTART, waiting.text
    assert "needs a restart of: postgres, pgbouncer" in waiting.text
    assert sql.value(CLUSTER_NAME) == "''"
    _ok(ops.script("apply", "--restart", env=env))
    assert sql.value(CLUSTER_NAME) == "'the second'"
    assert _of_pgbouncer(stack, console, tracked) == {"search_path"}
    assert _planned(ops, env) == {}
    _ok(ops.script("apply", "--restart", env=_write(env)))
    assert sql.value(CLUSTER_NAME) == "''"
    assert _of_pgbouncer(stack, console, tracked) == usual


def test_a_line_with_a_fault_is_refused_and_nothing_changes(
    stack: Stack, console: AdminConsole, sql: Sql, ops: Commands, env: EnvDir
) -> None:
    before = witness.compiled(stack), witness.configs(stack, console)
    done = ops.apply(_write(env, "work_mem = 64MB\nseq_page_coast = 2\n", "max_client_conn = 9\n"))
    assert done.exit_code == 2, done.text
    for part in (
        f"infra/env/{POSTGRES_FILE}:1: work_mem = 64MB cannot be set here",
        f"infra/env/{POSTGRES_FILE}:2: seq_page_coast = 2: PostgreSQL has no such parameter",
        f"infra/env/{PGBOUNCER_FILE}:1: max_client_conn = 9 cannot be set here",
    ):
        assert part in done.text
    assert (witness.compiled(stack), witness.configs(stack, console)) == before
