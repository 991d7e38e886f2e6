"""`plan`: exit codes, tables, JSON and differences."""

import json
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from infra.config import catalogue, envdoc, envfile
from infra.config.build import compile_stack
from infra.ops.cli import create_app
from tests.unit.infra.support import NOW, write_env


def _plan(env_file: Path, *options: str, columns: int = 200) -> Result:
    arguments = ["plan", "--env-file", str(env_file), "--compiled", str(env_file.parent / "none")]
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(create_app(), [*arguments, *options])


def test_a_sound_env_file_is_shown_in_tables(tmp_path: Path) -> None:
    result = _plan(write_env(tmp_path))
    assert result.exit_code == 0
    for name in catalogue.by_name():
        assert name in result.stdout
    for part in ("PostgreSQL sessions", "work_mem", "pooled and direct sessions", "left"):
        assert part in result.stdout
    assert "infra/env/stack.env: the budget holds" in result.stdout


def test_no_word_is_broken_in_80_columns(tmp_path: Path) -> None:
    path = write_env(tmp_path)
    names = {name for name, setting in catalogue.by_name().items() if setting.derivation}
    path.write_text(
        "".join(f"{line}\n" for line in path.read_text().split() if line.split("=")[0] not in names)
    )
    wide, narrow = (
        _plan(path, columns=columns).stdout.split("the file comes to.")[1] for columns in (400, 80)
    )
    words = {word for word in wide.split() if "─" not in word}
    assert "API_REQUEST_DEADLINE_SECONDS" in words
    assert words - set(narrow.split()) == set()
    tables = narrow.split("warning:")[0]
    assert max(map(len, tables.splitlines())) <= 80


def test_a_value_that_follows_from_others_says_from_which(tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    path.write_text(envfile.edit(envdoc.document(), {"API_REQUEST_DEADLINE_SECONDS": 20}))
    shown = _plan(path).stdout
    assert re.search(r"API_LOCK_TIMEOUT_MS=2000 +0\.1 x API_REQUEST_DEADLINE_SECONDS", shown)
    assert re.search(r"API_REQUEST_DEADLINE_SECONDS=20 +stack\.env; default 10\.0", shown)
    document = json.loads(_plan(path, "--json").stdout)
    assert document["settings"]["API_LOCK_TIMEOUT_MS"] == 2000
    assert document["derived_defaults"]["WORKER_POOL_MAX_SIZE"] == "WORKER_THREADS + 2"


def test_warnings_are_shown_and_do_not_refuse(tmp_path: Path) -> None:
    result = _plan(write_env(tmp_path, PGBOUNCER_INTERACTIVE_POOL_SIZE=8))
    assert "warning: infra/env/stack.env: PGBOUNCER_INTERACTIVE_POOL_SIZE=8" in result.stdout


def test_all_faults_come_at_once_with_exit_code_2(tmp_path: Path) -> None:
    result = _plan(write_env(tmp_path, WORKER_THREADS=16, API_PORT="x", ZZZ=1))
    assert result.exit_code == 2
    assert result.stdout == ""
    for part in ("WORKER_THREADS=16 exceeds", "API_PORT=x is not", "ZZZ=1 is not a setting"):
        assert part in result.stderr
    assert "3 fault(s)" in result.stderr


def test_json_holds_everything(tmp_path: Path) -> None:
    result = _plan(write_env(tmp_path), "--json")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["ok"] is True
    assert set(plan["settings"]) == set(catalogue.by_name())
    assert plan["budget"]["server_connections_spare"] == 30
    assert plan["role_connection_limits"]["risk_api"] == 36
    assert {"name": "max_connections", "value": "60", "formula": "POSTGRES_MAX_CONNECTIONS"} in (
        plan["derived"]
    )
    assert plan["differences"] is None


def test_json_lists_faults_with_exit_code_2(tmp_path: Path) -> None:
    result = _plan(write_env(tmp_path, API_PORT="x"), "--json")
    assert result.exit_code == 2
    plan = json.loads(result.stdout)
    assert plan["ok"] is False
    (fault,) = plan["faults"]
    assert fault["file"] == "infra/env/stack.env"
    assert fault["line"] > 0
    assert "API_PORT=x" in fault["message"]


def test_differences_to_the_last_compile_name_their_cost(tmp_path: Path) -> None:
    made = compile_stack(write_env(tmp_path), tmp_path / "secrets", now=NOW)
    record = next(file.content for file in made.files if file.path == "ops/compiled.json")
    (tmp_path / "none").write_bytes(record)
    env_file = write_env(tmp_path, PGBOUNCER_BATCH_POOL_SIZE=7, POSTGRES_MAX_CONNECTIONS=61)
    assert json.loads(_plan(env_file, "--json").stdout)["differences"] == [
        {
            "setting": "POSTGRES_MAX_CONNECTIONS",
            "was": 60,
            "now": 61,
            "change": "restart of postgres",
        },
        {"setting": "PGBOUNCER_BATCH_POOL_SIZE", "was": 2, "now": 7, "change": "live"},
    ]
    assert "Changed since the last compile" in _plan(env_file).stdout


def test_an_unchanged_file_has_no_differences(tmp_path: Path) -> None:
    made = compile_stack(write_env(tmp_path), tmp_path / "secrets", now=NOW)
    record = next(file.content for file in made.files if file.path == "ops/compiled.json")
    (tmp_path / "none").write_bytes(record)
    assert json.loads(_plan(tmp_path / "stack.env", "--json").stdout)["differences"] == []
