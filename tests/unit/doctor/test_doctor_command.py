"""`doctor` on files: what it says, in eighty columns or as a document, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.ops.cli import create_app
from infra.ops.doctor.sources import FILE_BYTES
from infra.ops.outcome import Exit
from tests.command import REPOSITORY

APP = create_app()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a directory of sources with one finding of each severity, and what is not read."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "node_modules").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "migrations" / "0001.sql").write_text("SELECT 1;\nLISTEN a;\nSET NAMES 'UTF8';\n")
    (tmp_path / "queue.py").write_text("def f(cur):\n    cur.execute('SET jit = off')\n")
    (tmp_path / "node_modules" / "x.sql").write_text("LISTEN a")
    (tmp_path / ".hidden" / "x.sql").write_text("LISTEN a")
    (tmp_path / "readme.md").write_text("LISTEN a;")
    return tmp_path


def document(*arguments: object) -> dict[str, Any]:
    """Return the one document of a run."""
    result = CliRunner().invoke(APP, ["doctor", *map(str, arguments), "--json"])
    printed: dict[str, Any] = json.loads(result.stdout)
    assert printed["exit_code"] == result.exit_code
    return printed


def test_findings_have_place_rule_and_remedy_the_worst_first(sources: Path) -> None:
    printed = document("--sql", sources)
    assert printed["exit_code"] == Exit.FAILED
    assert [(one["rule"], one["where"], one["line"]) for one in printed["findings"]] == [
        ("listen", "migrations/0001.sql", 2),
        ("session-setting", "queue.py", 2),
        ("tracked-setting", "migrations/0001.sql", 3),
    ]
    assert all(one["meaning"] and one["remedy"] for one in printed["findings"])
    assert printed["counts"] == {"critical": 1, "warning": 1, "note": 1}
    assert printed["judged"] == {"files": 2, "statements": 4}
    assert printed["not_judged"] == []


def test_notes_alone_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("SELECT lastval();")
    assert document("--sql", tmp_path)["exit_code"] == Exit.OK
    assert document("--sql", tmp_path / "a.sql")["exit_code"] == Exit.OK


def test_what_a_person_reads_fits_eighty_columns(sources: Path) -> None:
    (sources / "bad.sql").write_text("SELECT FROM WHERE;\n" * 30 + "SELECT lastval();\n" * 25)
    result = CliRunner().invoke(APP, ["doctor", "--sql", str(sources)])
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "critical: listen"
    assert "  migrations/0001.sql:2  LISTEN a" in lines
    assert "not judged: 10 more, see JSON=yes" in lines
    assert "  5 more, see JSON=yes" in lines
    assert lines[-1].endswith(
        "1 critical, 1 warning, 26 note; judged: 3 files, 29 statements; not judged: 30"
    )


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("none", None, "No such file or directory"),
        ("empty", "", "has no SQL: no file below it is one of .sql"),
        ("a.md", "LISTEN a", "is no SQL script and no Python source"),
    ],
)
def test_a_path_that_has_no_sql_is_refused(
    tmp_path: Path, name: str, content: str | None, fault: str
) -> None:
    path = tmp_path / name
    if content:
        path.write_text(content)
    elif content is not None:
        path.mkdir()
    printed = document("--sql", path)
    assert printed["exit_code"] == Exit.BAD_INPUT
    (said,) = printed["faults"]
    assert said.startswith(f"{path}: {fault}")


def test_files_that_cannot_be_read_are_named_and_the_others_judged(tmp_path: Path) -> None:
    (tmp_path / "binary.sql").write_bytes(b"LISTEN a;\0")
    (tmp_path / "latin.sql").write_bytes(b"SET a = '\xe9';")
    (tmp_path / "two.py").write_text("print 'LISTEN a'")
    (tmp_path / "deep.py").write_text("x = " + "(" * 3000 + ")" * 3000)
    (tmp_path / "gone.sql").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.sql")
    with (tmp_path / "dump.sql").open("wb") as dump:
        dump.truncate(FILE_BYTES + 1)
    printed = document("--sql", tmp_path)
    assert [one["where"] for one in printed["findings"]] == ["latin.sql"]
    assert {one["what"] for one in printed["not_judged"]} == {
        *("binary.sql", "two.py", "deep.py", "gone.sql", "pipe.sql", "dump.sql"),
    }
    assert all(one["reason"] for one in printed["not_judged"])


def test_no_other_command_loads_the_parser() -> None:
    script = (
        "import sys; from infra.ops.cli import create_app; from infra.ops.status import view; "
        "create_app(); print('pglast' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
