"""Env files that are broken in every way an operator can break them."""

from pathlib import Path

import pytest

from infra.config.build import check
from infra.config.envfile import parse
from tests.unit.infra.support import judge, messages, write_env


def test_comments_and_blank_lines_are_skipped() -> None:
    found = parse("# a comment\n\n  # another\nA=1\n", name="f")
    assert [(entry.name, entry.text, entry.line) for entry in found.entries] == [("A", "1", 4)]
    assert not found.faults


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("API_THREADS", "is not an assignment"),
        ("export API_THREADS=1", "is not a setting name"),
        (" API_THREADS=1", "is not a setting name"),
        ("API_THREADS =1", "is not a setting name"),
        ("api_threads=1", "is not a setting name"),
        ("API_THREADS=", "has no value"),
        ("API_THREADS= 1", "contains ' '"),
        ("API_THREADS=1 # many", "contains ' '"),
        ('API_THREADS="1"', "contains '\"'"),
        ("API_THREADS=${X}", "contains '$'"),
        ("API_THREADS=1\r", "CR LF"),
    ],
)
def test_a_line_that_compose_would_read_differently_is_refused(line: str, message: str) -> None:
    found = parse(f"# first\n{line}\n", name="infra/env/stack.env")
    assert len(found.faults) == 1
    assert str(found.faults[0]).startswith("infra/env/stack.env:2: ")
    assert message in str(found.faults[0])


def test_all_syntax_faults_are_collected() -> None:
    assert [fault.line for fault in parse("a\nB=\nC=1 2\nD=1\nD=2\n", name="f").faults] == [
        1,
        2,
        3,
        5,
    ]


def test_a_duplicate_names_both_lines() -> None:
    (fault,) = parse("A=1\nB=2\nA=1\n", name="f").faults
    assert str(fault) == "f:3: A is already set on line 1; keep one of the two"


def test_a_missing_file_is_one_fault(tmp_path: Path) -> None:
    checked = check(tmp_path / "stack.env")
    expected = "infra/env/stack.env: cannot be read: No such file or directory"
    assert messages(checked) == expected


def test_a_directory_in_place_of_the_file_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "stack.env").mkdir()
    assert messages(check(tmp_path / "stack.env")).endswith("cannot be read: Is a directory")


def test_a_file_that_is_not_text_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    path.write_bytes(b"API_PORT=\xff\n")
    assert messages(check(path)) == "infra/env/stack.env: is not UTF-8 text (byte 9)"


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    found = messages(judge(tmp_path, ZZZ_QQQ=1))
    assert found.endswith("ZZZ_QQQ=1 is not a setting; remove it")


def test_a_misspelt_setting_gets_a_suggestion_and_nothing_is_judged_by_its_default(
    tmp_path: Path,
) -> None:
    path = write_env(tmp_path, WORKER_POOL_MAX_SIZE=2, WORKER_POOL_MIN_SIZE=1)
    path.write_text(path.read_text().replace("WORKER_THREADS=4", "WORKER_TREADS=2"))
    (fault,) = check(path).faults
    assert fault.message == "WORKER_TREADS=2 is not a setting; did you mean WORKER_THREADS?"


def test_a_setting_that_is_left_out_has_its_default(tmp_path: Path) -> None:
    path = write_env(tmp_path)
    path.write_text(path.read_text().replace("API_THREADS=40\n", ""))
    checked = check(path)
    assert not checked.faults
    assert checked.values.integer("API_THREADS") == 40


def test_a_setting_that_compose_reads_cannot_be_left_out(tmp_path: Path) -> None:
    path = write_env(tmp_path)
    path.write_text(path.read_text().replace("API_PORT=8080\n", ""))
    assert messages(check(path)).endswith(
        "API_PORT is missing; Compose needs it: add API_PORT=8080"
    )


def test_a_default_that_only_leaving_the_line_out_gives_cannot_be_written(tmp_path: Path) -> None:
    """Compose publishes a port of the host's choice where the setting has any value."""
    assert judge(tmp_path).values.integer("PGBOUNCER_PORT") == 0
    refused = messages(judge(tmp_path, PGBOUNCER_PORT=0))
    assert "PGBOUNCER_PORT=0 is what holds without the line; remove the line" in refused


def test_faults_of_every_kind_come_at_once(tmp_path: Path) -> None:
    path = write_env(tmp_path, API_PORT="80x", ZZZ=1, WORKER_THREADS=16, API_LOCK_TIMEOUT_MS=9999)
    path.write_text(path.read_text() + "NONSENSE\n")
    found = messages(check(path))
    for part in ("API_PORT=80x", "ZZZ=1", "WORKER_THREADS=16", "API_LOCK_TIMEOUT_MS=9999"):
        assert part in found
    assert "'NONSENSE' is not an assignment" in found
