"""The corpus: what must be found, by rule and line, and what looks like it and must not be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.ops.doctor.findings import STATEMENT_RULES
from infra.ops.doctor.sources import examine

CORPUS = Path(__file__).parent / "corpus"
# On the line of a finding: its rules.
MARK = re.compile(r"\s*(?:--|#) expect: ([a-z, -]+)$", re.MULTILINE)
LEAST = 60
RECALL = 0.95


@dataclass(frozen=True)
class Case:
    """A file by its name and text, and the findings expected: pairs of line and rule."""

    name: str
    text: str
    expected: frozenset[tuple[int, str]]


def cases(file: str) -> list[Case]:
    """Return the cases of a corpus file, whose texts stand below lines of `=== NAME`."""
    parts = re.split(r"^=== (\S+)\n", (CORPUS / file).read_text(encoding="utf-8"), flags=re.M)[1:]
    return [_case(name, text) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def _case(name: str, text: str) -> Case:
    expected = set()
    for number, line in enumerate(text.splitlines(), 1):
        if mark := MARK.search(line):
            expected |= {(number, rule.strip()) for rule in mark[1].split(",")}
    return Case(name, MARK.sub("", text), frozenset(expected))


def found(case: Case, directory: Path) -> frozenset[tuple[int | None, str]]:
    """Return what the doctor finds in a case."""
    file = directory / case.name
    file.write_text(case.text, encoding="utf-8")
    return frozenset((one.line, one.rule) for one in examine(file).findings)


SEEDED, CLEAN = cases("seeded.txt"), cases("clean.txt")


def test_the_corpus_is_as_large_as_promised_and_has_every_rule() -> None:
    assert len({case.name for case in SEEDED}) == len(SEEDED) >= LEAST
    assert len({case.name for case in CLEAN}) == len(CLEAN) >= LEAST
    assert all(case.expected for case in SEEDED)
    assert not any(case.expected for case in CLEAN)
    seen = {rule for case in SEEDED for _, rule in case.expected}
    assert seen == {rule.name for rule in STATEMENT_RULES}


def test_nearly_every_seeded_case_is_found_by_rule_and_line(tmp_path: Path) -> None:
    missed = {(case.name, *one) for case in SEEDED for one in case.expected - found(case, tmp_path)}
    total = sum(len(case.expected) for case in SEEDED)
    assert len(missed) <= (1 - RECALL) * total, sorted(missed)


@pytest.mark.parametrize("case", SEEDED, ids=lambda case: case.name)
def test_a_seeded_case_has_no_finding_that_is_not_expected(case: Case, tmp_path: Path) -> None:
    assert found(case, tmp_path) - case.expected == frozenset()


@pytest.mark.parametrize("case", CLEAN, ids=lambda case: case.name)
def test_a_clean_case_gives_no_alarm(case: Case, tmp_path: Path) -> None:
    assert found(case, tmp_path) == frozenset()
