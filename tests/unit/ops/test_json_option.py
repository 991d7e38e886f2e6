"""Every operator command prints one JSON document when asked, also when it cannot begin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from infra.config import catalogue, documents
from infra.config.lock import operation_lock
from infra.ops.cli import create_app
from infra.ops.outcome import Exit

APP = create_app()
# Each command that needs the compiled settings, with the arguments it cannot do without.
NEED_SETTINGS = [
    ["status"],
    ["doctor"],
    ["restart", "postgres"],
    ["restart", "pgbouncer"],
    ["restart", "app", "worker"],
    ["pgbouncer", "retire", "sluice-pgbouncer-1"],
    ["pgbouncer", "spread", "2"],
    ["rotate", "passwords"],
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [*map(str, arguments), "--json"])


def document(result: Result) -> dict[str, Any]:
    """Return what standard output holds, which must be one document and nothing else."""
    return dict(json.loads(result.stdout))


def commands(app: typer.Typer, *names: str) -> Iterator[list[str]]:
    """Return the words of every command of the operator's; the dead-man is nobody's to run."""
    for command in app.registered_commands:
        if not command.hidden:
            yield [*names, str(command.name)]
    for group in app.registered_groups:
        assert group.typer_instance
        yield from commands(group.typer_instance, *names, str(group.name))


@pytest.mark.parametrize("words", list(commands(APP)), ids=" ".join)
def test_every_operator_command_takes_json(words: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(APP, [*words, "--help"])
    assert "--json" in shown.stdout


@pytest.mark.parametrize("arguments", NEED_SETTINGS, ids=" ".join)
def test_without_compiled_settings_the_document_says_who_writes_them(
    tmp_path: Path, arguments: list[str]
) -> None:
    settings = tmp_path / "ops.json"
    result = run(*arguments, "--settings", settings)
    assert result.exit_code == Exit.FAILED
    printed = document(result)
    assert printed["exit_code"] == Exit.FAILED
    assert printed["faults"] == [
        f"{settings}: No such file or directory; the config service writes it"
    ]


def test_a_rotation_of_certificates_before_the_first_start_is_refused_without_settings(
    tmp_path: Path,
) -> None:
    places = [f"--{name}={tmp_path}" for name in ("out", "secrets")]
    (tmp_path / "ops").mkdir()
    result = run("rotate", "certificates", "--settings", tmp_path / "ops.json", *places)
    assert result.exit_code == Exit.REFUSED
    assert "nothing was compiled yet" in str(document(result)["faults"])


def test_settings_that_are_not_json_are_a_document_too(tmp_path: Path) -> None:
    settings = tmp_path / "ops.json"
    settings.write_text("{")
    printed = document(run("restart", "pgbouncer", "--settings", settings))
    assert printed["exit_code"] == Exit.FAILED
    assert printed["faults"][0].startswith(f"{settings}: is not JSON: ")


def test_settings_of_another_version_are_named_and_refused(tmp_path: Path) -> None:
    older = documents.ops(catalogue.defaults())
    del older["pgbouncer"]["server_hop"]  # type: ignore[attr-defined]
    settings = tmp_path / "ops.json"
    settings.write_text(json.dumps(older))
    printed = document(run("restart", "pgbouncer", "--settings", settings))
    assert printed["exit_code"] == Exit.REFUSED
    (fault,) = printed["faults"]
    assert "has no pgbouncer.server_hop: another version of Sluice compiled it" in fault
    assert fault.endswith("make up")


@pytest.mark.parametrize("arguments", NEED_SETTINGS[2:-1], ids=" ".join)
def test_while_another_operation_runs_the_document_says_which(
    tmp_path: Path, arguments: list[str]
) -> None:
    settings = tmp_path / "ops.json"
    settings.write_text(json.dumps(documents.ops(catalogue.defaults())))
    locks = tmp_path / "ops"
    locks.mkdir()
    where = ["--out", tmp_path] if arguments[0] == "rotate" else ["--directory", locks]
    with operation_lock(locks, "apply"):
        result = run(*arguments, "--settings", settings, *where)
    assert result.exit_code == Exit.REFUSED
    printed = document(result)
    assert printed["exit_code"] == Exit.REFUSED
    assert printed["faults"][0].startswith("refused: apply in container")
    assert printed["processes"] == []


def test_a_restart_that_cannot_lock_is_a_document(tmp_path: Path) -> None:
    settings = tmp_path / "ops.json"
    settings.write_text(json.dumps(documents.ops(catalogue.defaults())))
    nowhere = tmp_path / "none"
    result = run("restart", "postgres", "--settings", settings, "--directory", nowhere)
    assert result.exit_code == Exit.FAILED
    assert "No such file or directory" in document(result)["faults"][0]
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_apply_that_cannot_lock_is_a_document(tmp_path: Path) -> None:
    result = run("apply", "--out", tmp_path, "--env-file", tmp_path / "stack.env")
    assert result.exit_code == Exit.FAILED
    printed = document(result)
    assert "No such file or directory" in printed["faults"][0]
    assert printed["state"] == "this command changed nothing"
    assert (printed["operation"], printed["plan"], printed["waiting"]) == ("apply", None, [])


def test_an_unknown_preset_is_a_document() -> None:
    result = run("preset", "huge")
    assert result.exit_code == Exit.BAD_INPUT
    printed = document(result)
    assert printed["exit_code"] == Exit.BAD_INPUT
    assert "'huge' is not one of laptop" in printed["faults"][0]
