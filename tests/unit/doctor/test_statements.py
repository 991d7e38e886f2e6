"""What counts as SQL, how a script is split, and what cannot be judged."""

from __future__ import annotations

import pytest

from app.assessments import tasks
from infra.ops.doctor.python_files import read_source
from infra.ops.doctor.scripts import Piece, read_with_placeholders, split
from infra.ops.doctor.statements import STATEMENT_BYTES, NotSqlError, judge, read


def evidence(text: str) -> list[str]:
    return [hit.evidence for one in read_with_placeholders(text) for hit in one.hits]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT 'a", "unterminated quoted string"),
        ("SELECT `a` FROM b", "syntax error"),
        ("SELECT " + "+".join(["1"] * 3000), "nested too deeply"),
        ("SELECT " + "(" * 90_000 + "1", "memory exhausted|stack depth"),
        ("SELECT 1\0; SET x = 1", "NUL"),
        (f"SELECT '{'x' * STATEMENT_BYTES}'", "KiB"),
    ],
    ids=["quote", "dialect", "deep", "deeper", "nul", "long"],
)
def test_what_the_parser_does_not_take_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(NotSqlError, match=reason):
        read_with_placeholders(text)


def test_the_line_is_that_of_the_statement_or_of_the_function() -> None:
    hits = judge("/* é */\n\nSET a = 1;\nSELECT 'ü',\n  pg_advisory_lock(1)")
    assert [(hit.line, hit.evidence) for hit in hits] == [(2, "SET a"), (4, "pg_advisory_lock()")]


@pytest.mark.parametrize("text", [tasks.CLAIM, tasks.AWAIT_CLAIM])
def test_the_lock_of_a_claim_ends_with_its_transaction(text: str) -> None:
    assert "pg_advisory_xact_lock" in text
    assert evidence(text) == []


def test_a_later_reset_does_not_undo_what_was_committed() -> None:
    kept = [
        "BEGIN; SET a = 1; COMMIT; RESET a",
        "BEGIN; CREATE TEMP TABLE t (x int); COMMIT; DROP TABLE t",
        "BEGIN; DROP TABLE t; CREATE TEMP TABLE t (x int); COMMIT",
    ]
    assert [len(judge(text)) for text in kept] == [1, 1, 1]
    assert judge("BEGIN; SET a = 1; SET b = 2; RESET ALL; COMMIT") == []


def test_a_body_that_is_not_plpgsql_is_named_and_the_rest_judged() -> None:
    (one,) = read("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN nonsense $$")
    assert one.hits == []
    assert [reason.partition(": ")[0] for reason in one.unjudged] == ["body of f"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SET {name} = {value}", ["SET ..."]),
        (
            "SELECT pg_advisory_lock(%(key)s), a %% 2 FROM {t} {where} LIMIT %s",
            ["pg_advisory_lock()"],
        ),
        ("SELECT * FROM ({query}) AS q WHERE a IN %s AND b ? 'c' AND d = ?", []),
        ("CREATE TEMP TABLE {t} ({columns})", ["CREATE TEMPORARY TABLE ..."]),
        ("ALTER ROLE {} CONNECTION LIMIT {}", []),
        ("SET LOCAL statement_timeout = {{ timeout }}", []),
        ("DO $$ BEGIN EXECUTE {text}; SET a = {b}; END $$", ["SET a"]),
    ],
)
def test_placeholders_of_every_kind_stand_for_something(text: str, expected: list[str]) -> None:
    assert evidence(text) == expected


def test_a_script_is_split_as_psql_does() -> None:
    script = r"""
\set ON_ERROR_STOP on
SELECT ';', $a$ ; $a$; /* ; /* ; */ ; */ SELECT (1; 2);
COPY t FROM stdin;
SET a = 1;
\.
SELECT 1 \gexec
SELECT 2 \; SELECT 3;
-- the end"""
    assert list(split(script)) == [
        Piece(3, "SELECT ';', $a$ ; $a$"),
        Piece(3, "SELECT (1; 2)"),
        Piece(4, "COPY t FROM stdin"),
        Piece(7, "SELECT 1  "),
        Piece(8, "SELECT 2 ; SELECT 3"),
    ]


@pytest.mark.parametrize("text", ["'a", '"a', "$$a", "/* a", "COPY t FROM stdin;\n1", "\\", "(((;"])
def test_what_does_not_end_is_one_piece_at_most(text: str) -> None:
    assert len(list(split(text))) <= 1


def test_python_that_only_looks_like_sql_is_not_counted() -> None:
    found = read_source('import psycopg\nx = ["select", "SET", "with love", "set of keys"]\n')
    assert (found.hits, found.unjudged) == ((), ())


def test_sql_that_cannot_be_read_in_python_is_named_by_its_line() -> None:
    found = read_source(
        "import psycopg\n\ndef f(c, x):\n    c.execute('SELECT FROM WHERE')\n    c.execute(x)\n"
    )
    assert found.unjudged == ((4, 'syntax error at or near "WHERE"'),)
