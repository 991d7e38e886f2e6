"""Loading reference data from CSV: everything, or nothing and every reason why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Done, run
from tests.fix_api import ASSESSMENTS, SEOUL, Api, assessment_body
from tests.fix_sql import Sql

GOOD_HEADER = (
    "cell_id,structure,storeys,built_year,has_basement,"
    "elevation_m,river_distance_m,coast_distance_m"
)


def load(folder: Path, table: str, content: str | bytes, *options: str) -> Done:
    """Write a CSV file and load it as the README says; its name has a space."""
    file = folder / "the rows.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return run(
        "make", "--no-print-directory", "load-reference", f"TABLE={table}", f"FILE={file}", *options
    )


@pytest.fixture
def building(sql: Sql) -> list[str]:
    """Return one building's values in the order of the header."""
    (row,) = sql.rows(f"SELECT {GOOD_HEADER} FROM reference.buildings ORDER BY cell_id LIMIT 1")
    return list(row.values())


@pytest.fixture
def _source_kept(sql: Sql) -> Iterator[None]:
    yield
    sql.rows("UPDATE reference.grid SET source = 'synthetic', loaded_tables = '{}'")


@pytest.fixture
def digest(sql: Sql) -> Iterator[None]:
    """Check that the test changed nothing in the table."""
    question = "SELECT md5(string_agg(b::text, '' ORDER BY cell_id)) FROM reference.buildings AS b"
    before = sql.value(question)
    yield
    assert sql.value(question) == before


@pytest.mark.usefixtures("_source_kept", "digest")
def test_good_rows_are_loaded_and_the_source_says_so(
    sql: Sql, tmp_path: Path, building: list[str]
) -> None:
    result = load(tmp_path, "buildings", f"{GOOD_HEADER}\n{','.join(building)}\n")
    assert result.returncode == 0, result.stdout + result.stderr
    assert sql.value("SELECT source FROM reference.grid") == "loaded"


@pytest.mark.usefixtures("_source_kept", "digest")
def test_what_was_loaded_is_in_the_next_assessment(api: Api, sql: Sql, tmp_path: Path) -> None:
    cell = f"reference.cell_at({SEOUL['latitude']}, {SEOUL['longitude']})"
    (row,) = sql.rows(f"SELECT {GOOD_HEADER} FROM reference.buildings WHERE cell_id = {cell}")
    other = row | {"has_basement": "f" if row["has_basement"] == "t" else "t"}

    def scores() -> list[float | None]:
        body = assessment_body(scenarios=["SSP126"], years={"from": 2030, "to": 2030})
        url = f"{ASSESSMENTS}/{api.run(body)['assessment_id']}/results"
        return [one["vulnerability_score"] for one in api.http.get(url).json()["results"]]

    before = scores()
    try:
        load(tmp_path, "buildings", f"{GOOD_HEADER}\n{','.join(other.values())}\n")
        assert scores() != before
    finally:
        load(tmp_path, "buildings", f"{GOOD_HEADER}\n{','.join(row.values())}\n")
    assert scores() == before


@pytest.mark.usefixtures("digest")
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (1, "straw", "structure"),
        (2, "many", "storeys"),
        (2, "70000", "storeys"),
        (3, "900", "built_year"),
        (4, "perhaps", "has_basement"),
        (5, "NaN", "elevation_m"),
        (6, "-1", "river_distance_m"),
        (0, "99999999", "cell_id"),
        (0, "", "cell_id"),
    ],
)
def test_a_bad_value_is_refused_with_file_line_column_and_reason(
    tmp_path: Path, building: list[str], column: int, value: str, reason: str
) -> None:
    bad = [*building[:column], value, *building[column + 1 :]]
    text = f"{GOOD_HEADER}\n{','.join(building)}\n{','.join(bad)}\n"
    result = load(tmp_path, "buildings", text)
    said = (result.stdout + result.stderr).replace("\n", " ")
    assert result.returncode != 0
    assert "the rows.csv:3" in said
    assert reason in said


@pytest.mark.usefixtures("digest")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        (f"{GOOD_HEADER}\n1,wood\n", "rows.csv:2"),
        (GOOD_HEADER.replace("structure", "structur") + "\n", "structure"),
        (b"cell_id\n\xff\xfe\n", "UTF-8"),
        (b"cell_id\n1\x00\n", "NUL"),
    ],
    ids=["empty", "too few fields", "misspelt column", "not UTF-8", "NUL"],
)
def test_a_wrong_file_is_refused_with_the_reason(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    result = load(tmp_path, "buildings", content)
    assert result.returncode != 0
    assert reason.lower() in (result.stdout + result.stderr).lower()


@pytest.mark.parametrize(
    ("table", "file", "says"),
    [
        ("", "", "TABLE FILE (make load-reference TABLE=buildings FILE=b.csv)"),
        ("buildings", "nowhere.csv", "nowhere.csv: no such file"),
        ("buildings", "infra", "infra: no such file"),
    ],
)
def test_what_is_not_there_is_named_and_is_a_document_for_programs(
    table: str, file: str, says: str
) -> None:
    done = run("make", "load-reference", f"TABLE={table}", f"FILE={file}", "JSON=yes")
    assert says in done.stderr
    assert done.document["exit_code"] == 2


@pytest.mark.usefixtures("_source_kept", "digest")
def test_replace_removes_what_is_not_in_the_file(sql: Sql, tmp_path: Path) -> None:
    rows = sql.rows(f"SELECT {GOOD_HEADER} FROM reference.buildings ORDER BY cell_id")
    assert len(rows) > 1
    lines = [",".join(row.values()) for row in rows]
    try:
        done = load(
            tmp_path,
            "buildings",
            "\n".join([GOOD_HEADER, *lines[1:], ""]),
            "REPLACE=yes",
            "JSON=yes",
        )
        assert (done.document["exit_code"], done.document["rows_removed"]) == (0, 1)
    finally:
        done = load(
            tmp_path, "buildings", "\n".join([GOOD_HEADER, *lines, ""]), "REPLACE=no", "JSON=yes"
        )
    assert (done.document["exit_code"], done.document["rows_loaded"]) == (0, len(rows))


def test_an_unknown_table_is_refused_with_the_known_names(tmp_path: Path) -> None:
    result = load(tmp_path, "building", f"{GOOD_HEADER}\n")
    assert result.returncode != 0
    assert "buildings" in result.stdout + result.stderr
