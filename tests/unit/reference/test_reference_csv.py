"""Reading a reference CSV file, before any database sees it."""

from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schema.reference_csv import (
    FAULTS_KEPT_MAX,
    Column,
    Fault,
    FaultList,
    Record,
    ReferenceFile,
    ReferenceFileError,
    shown,
)

PATH = Path("data/population.csv")
COLUMNS = [Column("cell_id", True), Column("year", True), Column("population", False)]
HEADER = b"cell_id,year,population\n"


def open_file(content: bytes) -> ReferenceFile:
    return ReferenceFile(PATH, BytesIO(content), lambda _: None)


def read(content: bytes) -> tuple[list[Record], list[Fault]]:
    file = open_file(content)
    header = file.header(COLUMNS)
    records = list(file.records(len(header)))
    return records, file.faults.kept


def refusal(content: bytes) -> list[str]:
    with pytest.raises(ReferenceFileError) as refused:
        open_file(content).header(COLUMNS)
    return str(refused.value).splitlines()


def only_fault(content: bytes) -> str:
    _, faults = read(content)
    (fault,) = faults
    return fault.text(PATH)


def test_records_carry_their_line_and_empty_fields_are_null() -> None:
    records, faults = read(HEADER + b"1,2021,5\n2,2021,\n")
    assert records == [(2, ["1", "2021", "5"]), (3, ["2", "2021", None])]
    assert faults == []


def test_the_columns_may_come_in_any_order() -> None:
    assert open_file(b"year, cell_id\n").header(COLUMNS) == ["year", "cell_id"]


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    records, faults = read(b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"1,2021,5\r\n")
    assert (records, faults) == ([(2, ["1", "2021", "5"])], [])


def test_the_last_line_needs_no_line_end() -> None:
    assert read(HEADER + b"1,2021,5")[0] == [(2, ["1", "2021", "5"])]


def test_blank_lines_are_passed_over_and_counted() -> None:
    assert read(HEADER + b"\n\n1,2021,5\n\n")[0] == [(4, ["1", "2021", "5"])]


def test_a_quoted_line_end_counts_for_the_lines_after_it() -> None:
    records, _ = read(HEADER + b'1,2021,"a\nb"\n2,2021,5\n')
    assert records == [(2, ["1", "2021", "a\nb"]), (4, ["2", "2021", "5"])]


def test_an_empty_file_is_refused_with_the_header_it_needs() -> None:
    assert refusal(b"") == ["data/population.csv: is empty; line 1 must be cell_id,year,population"]


def test_every_fault_of_a_header_is_named_at_once() -> None:
    assert refusal(b"cel_id,year,year,,\xff\n") == [
        "data/population.csv:1: header: unknown column 'cel_id'; did you mean cell_id?",
        "data/population.csv:1: header: column year is named twice",
        "data/population.csv:1: header: column 4 has no name",
        "data/population.csv:1: header: unknown column '\N{REPLACEMENT CHARACTER}'; "
        "known are cell_id, year, population",
        "data/population.csv:1: header: column cell_id is missing, and the table needs it",
        "data/population.csv:1: header: not UTF-8: byte 0xff at 19",
    ]


def test_a_column_that_may_be_null_may_be_absent() -> None:
    assert open_file(b"cell_id,year\n").header(COLUMNS) == ["cell_id", "year"]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_recognised(mark: str) -> None:
    (line,) = refusal(mark.join(["cell_id", "year"]).encode())
    assert line.endswith("fields must be separated by commas")


def test_a_wrong_number_of_fields_is_a_fault_of_its_line_only() -> None:
    records, faults = read(HEADER + b"1,2021\n2,2021,5\n3,2021,5,6\n")
    assert records == [(3, ["2", "2021", "5"])]
    assert [fault.text(PATH) for fault in faults] == [
        "data/population.csv:2: has 2 fields where the header has 3",
        "data/population.csv:4: has 4 fields where the header has 3",
    ]


def test_a_nul_character_is_a_fault() -> None:
    assert only_fault(HEADER + b"1,2021,5\x00\n").startswith(
        "data/population.csv:2: holds a NUL character"
    )


def test_bytes_that_are_not_utf8_are_a_fault_with_their_place() -> None:
    assert only_fault(HEADER + b"1,2021,\xe9\n") == (
        "data/population.csv:2: not UTF-8: byte 0xe9 at 8"
    )


def test_an_open_quote_is_reported_where_it_opens() -> None:
    assert only_fault(HEADER + b'1,2021,"5\n2,2021,5\n').startswith(
        "data/population.csv:2: unexpected end of data; is a quote left open?"
    )


def test_text_after_a_closing_quote_is_a_fault() -> None:
    assert only_fault(HEADER + b'1,2021,"5"6\n').startswith("data/population.csv:2:")


def test_faults_are_all_counted_but_not_all_kept() -> None:
    faults = FaultList()
    for line in range(FAULTS_KEPT_MAX + 5):
        faults.add(line, "bad")
    assert (len(faults.kept), faults.total) == (FAULTS_KEPT_MAX, FAULTS_KEPT_MAX + 5)


def test_a_report_line_names_file_line_column_value_and_reason() -> None:
    fault = Fault(7, "population", "-1", "breaks population_check: (population >= 0)")
    assert fault.text(PATH) == (
        "data/population.csv:7: column population: value '-1': "
        "breaks population_check: (population >= 0)"
    )


def test_a_missing_value_is_not_shown_as_text() -> None:
    assert shown(None) == "no value"


@given(st.text())
def test_no_control_character_of_a_file_reaches_the_terminal(value: str) -> None:
    line = Fault(1, "population", value, f"bad {value}").text(PATH)
    assert line.isprintable()
    assert len(line) < 5000


@given(st.binary())
def test_any_bytes_at_all_are_read_or_refused(content: bytes) -> None:
    try:
        records, faults = read(HEADER + content)
    except ReferenceFileError:
        return
    assert all(len(fields) == len(COLUMNS) for _, fields in records)
    lines = [line for line, _ in records] + [fault.line for fault in faults]
    assert len(lines) == len(set(lines))


def test_progress_is_told_every_byte() -> None:
    seen: list[int] = []
    content = HEADER + b"1,2021,5\n2,2021\n"
    file = ReferenceFile(PATH, BytesIO(content), seen.append)
    file.header(COLUMNS)
    list(file.records(3))
    assert sum(seen) == len(content)
