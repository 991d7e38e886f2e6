"""`load-reference`: the outcome of a load, for a person and for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.pool import ConnectionSettings
from app.schema import load_reference as loading
from app.schema.__main__ import main
from app.schema.load_reference import BAD_INPUT, FAILED, OK, Loaded, RefusedError
from app.schema.reference_csv import Fault, ReferenceFileError

FAULT = Fault(3, "storeys", "many\x1b", "is not a number")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def settings(tmp_path: Path) -> ConnectionSettings:
    """Return settings by which the owner could log in."""
    password = tmp_path / "owner.password"
    password.write_text("secret")
    return ConnectionSettings(
        host="postgres",
        port=5432,
        dbname="risk",
        user="risk_owner",
        password_file=str(password),
        sslrootcert="ca.crt",
    )


def load(
    monkeypatch: pytest.MonkeyPatch,
    settings: ConnectionSettings,
    result: object,
    *,
    steps: Sequence[str] = ("reading rows.csv",),
    as_json: bool = True,
) -> int:
    """Run the command with what comes of the load after these steps."""

    def loaded(*_: object, **options: Any) -> object:
        for step in steps:
            options["say"](step)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(loading, "load_reference", loaded)
    return loading.run("buildings", Path("rows.csv"), settings, as_json=as_json)


def test_a_load_counts_rows(
    monkeypatch: pytest.MonkeyPatch, settings: ConnectionSettings, capsys: Captured
) -> None:
    assert load(monkeypatch, settings, Loaded(5, 2, 0)) == OK
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["rows_loaded"], told["rows_removed"], told["rows_left"]) == (5, 2, 0)
    assert (told["exit_code"], told["faults"], told["fault_count"]) == (OK, [], 0)
    assert told["steps"] == ["reading rows.csv"]
    assert captured.err == "reading rows.csv\n"


def test_a_person_reads_what_was_loaded_and_what_stays(
    monkeypatch: pytest.MonkeyPatch, settings: ConnectionSettings, capsys: Captured
) -> None:
    assert load(monkeypatch, settings, Loaded(5, 0, 7), as_json=False) == OK
    assert capsys.readouterr().out.startswith("reference.buildings: 5 rows loaded; 7 earlier rows")


def test_bad_rows_are_told_field_by_field(
    monkeypatch: pytest.MonkeyPatch, settings: ConnectionSettings, capsys: Captured
) -> None:
    assert load(monkeypatch, settings, RefusedError([FAULT], 51)) == BAD_INPUT
    told = json.loads(capsys.readouterr().out)
    assert told["bad_values"] == [
        {"line": 3, "column": "storeys", "value": "many\\x1b", "reason": "is not a number"}
    ]
    assert told["fault_count"] == 51
    assert told["faults"] == [
        "rows.csv:3: column storeys: value 'many\\x1b': is not a number",
        "rows.csv: and 50 more",
    ]
    assert told["state"] == "rows.csv: 51 faults; nothing was loaded"


@pytest.mark.parametrize(
    ("error", "code", "faults"),
    [
        (ReferenceFileError("rows.csv:1: a\nrows.csv:1: b"), 2, ["rows.csv:1: a", "rows.csv:1: b"]),
        (
            IsADirectoryError(21, "Is a directory", "rows.csv"),
            2,
            ["rows.csv: cannot be read: Is a directory"],
        ),
        (
            psycopg.errors.LockNotAvailable("canceling statement"),
            3,
            ["buildings: another load or a migration has a table it needs; try again then"],
        ),
        (psycopg.OperationalError("gone"), 1, ["buildings: the database says: gone"]),
    ],
)
def test_a_load_that_did_not_come_about_says_why(
    monkeypatch: pytest.MonkeyPatch,
    settings: ConnectionSettings,
    capsys: Captured,
    error: Exception,
    code: int,
    faults: list[str],
) -> None:
    assert load(monkeypatch, settings, error) == code
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["faults"], told["state"]) == (
        code,
        faults,
        "nothing was loaded",
    )


@pytest.mark.parametrize(
    ("error", "step", "state"),
    [
        (psycopg.OperationalError("gone"), loading.COMMITTING, loading.NOT_KNOWN),
        (psycopg.errors.AdminShutdown("ending"), loading.COMMITTING, loading.NOT_KNOWN),
        (KeyboardInterrupt(), loading.COMMITTING, loading.NOT_KNOWN),
        (KeyboardInterrupt(), "writing buildings", loading.NOTHING_LOADED),
        (psycopg.errors.CheckViolation("no"), loading.COMMITTING, loading.NOTHING_LOADED),
    ],
)
def test_a_load_that_ended_in_its_commit_may_have_come_about(
    monkeypatch: pytest.MonkeyPatch,
    settings: ConnectionSettings,
    capsys: Captured,
    error: BaseException,
    step: str,
    state: str,
) -> None:
    assert load(monkeypatch, settings, error, steps=[step]) == FAILED
    assert json.loads(capsys.readouterr().out)["state"] == state


def test_a_password_that_is_not_there_is_no_fault_of_the_file(
    tmp_path: Path, settings: ConnectionSettings, capsys: Captured
) -> None:
    (tmp_path / "owner.password").unlink()
    assert loading.run("buildings", Path("rows.csv"), settings, as_json=True) == FAILED
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault == f"{tmp_path}/owner.password: cannot be read: No such file or directory"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_loading_without_compiled_settings_says_who_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, options: list[str]
) -> None:
    settings = tmp_path / "migrate.json"
    monkeypatch.setenv("SLUICE_SETTINGS", str(settings))
    assert main(["load-reference", "grid_cells", "t.csv", *options]) == FAILED
    captured = capsys.readouterr()
    fault = json.loads(captured.out)["faults"][0] if options else captured.err
    assert f"{settings}: cannot be read (No such file or directory)" in fault
    assert "config service" in fault


@pytest.mark.parametrize("arguments", [[], ["load-reference", "grid_cells"], ["load"]])
def test_a_command_that_cannot_be_is_an_invalid_option(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == BAD_INPUT
