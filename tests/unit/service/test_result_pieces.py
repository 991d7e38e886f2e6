"""How rows are cut into pieces: how many fit, where a page ends, what follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import pytest

from app.assessments import read_results
from app.assessments.read_results import (
    COLUMNS,
    PIECE_BYTES_MAX,
    ROW_BYTES_MAX,
    Form,
    ResultFilter,
    ResultKey,
    ResultPiece,
    UnknownSiteError,
    begin_results,
    continue_results,
)
from app.database import Work
from app.risk.factors import SEA_LEVEL_GROUND, SHORE
from app.risk.model import (
    EXPOSURE_PERCENTS,
    NO_HAZARD,
    NO_PROBABILITY,
    VULNERABILITY_PERCENTS,
)
from app.risk.types import RiskLevel, RiskType, Scenario
from infra.config import resources

SOME_ID = UUID("11111111-2222-3333-4444-555555555555")
# A number of as many characters as one can have.
LONGEST = 2.2250738585072014e-308
SCORES = (1.5, 2.5, 3.5, 0.1, 0.1, 5.0, 6.5)
Key = tuple[int, str, int, str]


class Rows:
    """Answers the statements of a read as a database with these rows would, unfiltered.

    Those of `later` are there once some have been read: the assessment still runs.
    """

    def __init__(
        self, keys: list[Key], *, name_bytes: int = 5, later: list[Key] | None = None
    ) -> None:
        self.keys = keys
        self.later = later
        self.name_bytes = name_bytes
        self.asked: list[int] = []

    def execute(self, query: str, parameters: dict[str, Any]) -> Any:
        if query == read_results.NAMES:
            return [(self.name_bytes, 0 if parameters["site_id"] == "known" else None)]
        if query == read_results.ENDED:
            return [(self.later is None,)]
        if query == read_results.END:
            behind = self._behind(parameters)[parameters["rows"] - 1 :]
            return Fetched(behind[:2])
        return [(key[0], json.dumps(row(key))) for key in self._cut(parameters)]

    @contextmanager
    def cursor(self) -> Iterator[Rows]:
        yield self

    @contextmanager
    def copy(self, _query: str, parameters: dict[str, Any]) -> Iterator[Iterator[memoryview]]:
        yield (memoryview(line(key)) for key in self._cut(parameters))

    def _cut(self, parameters: dict[str, Any]) -> list[Key]:
        self.asked.append(parameters["rows"])
        found = self._behind(parameters)[: parameters["rows"]]
        self.keys = self.later or self.keys
        return found

    def _behind(self, parameters: dict[str, Any]) -> list[Key]:
        names = ("site_no", "scenario", "year", "risk_type")
        after, until = (
            tuple(parameters[f"{end}_{name}"] for name in names) for end in ("after", "until")
        )
        return [key for key in self.keys if order(after) < order(key) <= order(until)]


class Fetched(list[Key]):
    """The rows of a statement."""

    def fetchall(self) -> list[Key]:
        return self


def order(key: Any) -> tuple[int, int, int, int]:
    """Return a key as PostgreSQL orders it."""
    site_no, scenario, year, risk_type = key
    return site_no, list(Scenario).index(scenario), year, list(RiskType).index(risk_type)


def row(key: Key) -> dict[str, Any]:
    site_no, *rest = key
    values = (f'a "{site_no}", b', *rest, *SCORES, "low", [])
    return dict(zip(COLUMNS, values, strict=True))


def line(key: Key) -> bytes:
    site_no, *rest = key
    fields = (f'"a ""{site_no}"", b"', *rest, *SCORES, "low", "", site_no)
    return ",".join(map(str, fields)).encode() + b"\n"


def keys(sites: int) -> list[Key]:
    """Return the keys of 36 rows for each site, in order."""
    return [
        (site, scenario.value, 2030, risk_type.value)
        for site in range(sites)
        for scenario in Scenario
        for risk_type in RiskType
    ]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ten rows with names of 5 bytes fit into a piece."""
    monkeypatch.setattr(read_results, "PIECE_BYTES_MAX", 10 * 110)
    monkeypatch.setattr(read_results, "ROW_BYTES_MAX", {"json": 100, "csv": 100})


def begin(rows: Rows, form: Form, **how: Any) -> ResultPiece:
    piece = begin_results(
        cast(Work, rows), SOME_ID, ResultFilter(), form=form, **{"after": None, "limit": None} | how
    )
    assert piece is not None
    return piece


def whole(rows: Rows, form: Form, **how: Any) -> tuple[list[bytes], ResultKey | None]:
    """Return the pieces of an answer, and where the next page starts."""
    piece = begin(rows, form, **how)
    following, texts = piece.next, [piece.text]
    while piece.rest is not None:
        piece = continue_results(cast(Work, rows), piece.rest)
        texts.append(piece.text)
    return texts, following


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("sites", [1, 5])
def test_a_file_has_every_row_once(sites: int) -> None:
    texts, following = whole(Rows(keys(sites)), "csv")
    assert following is None
    wanted = [line(key).rpartition(b",")[0] + b"\r\n" for key in keys(sites)]
    assert b"".join(texts) == b"".join(wanted)
    assert len(texts) == len(wanted) // 10 + 1


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("limit", [1, 9, 10, 20, 25, 36, 40])
def test_pages_of_every_size_have_every_row_once(limit: int) -> None:
    rows, after, seen = Rows(keys(2)), None, []
    while True:
        texts, following = whole(rows, "json", after=after, limit=limit)
        page = json.loads(b"[" + b"".join(texts) + b"]")
        assert len(page) == limit or following is None
        seen += page
        if following is None:
            break
        after = ResultKey.decode(following.encode())
    assert seen == [row(key) for key in keys(2)]
    assert max(rows.asked) <= 10


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("limit", [5, 10, 25])
@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_page_has_no_more_rows_than_asked_for_while_more_are_stored(
    form: Form, limit: int
) -> None:
    stored = keys(2)[::2]
    rows = Rows(stored, later=keys(2))
    texts, following = whole(rows, form, limit=limit)
    page = b"".join(texts)
    sent = page.count(b"\r\n") if form == "csv" else len(json.loads(b"[" + page + b"]"))
    assert 0 < sent <= limit
    # Nothing is passed over.
    assert following is not None
    assert order(stored[sent - 1]) == order(
        (following.site_no, following.scenario, following.year, following.risk_type)
    )


@pytest.mark.usefixtures("tiny")
def test_a_site_is_read_alone() -> None:
    found = begin_results(
        cast(Work, Rows(keys(2))), SOME_ID, ResultFilter("known"), after=None, limit=99, form="json"
    )
    assert found is not None
    assert found.rest is not None
    assert (found.rest.after.site_no, found.rest.until.site_no) == (0, 0)


def test_an_unknown_site_and_an_unknown_assessment_are_told_apart() -> None:
    with pytest.raises(UnknownSiteError):
        begin_results(
            cast(Work, Rows(keys(1))), SOME_ID, ResultFilter("x"), after=None, limit=1, form="csv"
        )
    nothing: Any = Rows([], name_bytes=cast(int, None))
    wanted = ResultFilter("x")
    assert begin_results(nothing, SOME_ID, wanted, after=None, limit=1, form="csv") is None


@pytest.mark.parametrize("form", ["json", "csv"])
def test_long_names_of_sites_make_pieces_of_fewer_rows(form: Form) -> None:
    rows = Rows(keys(1), name_bytes=4 * 255)
    begin(rows, form)
    # Quotes, and with JSON backslashes, are written twice.
    assert rows.asked[0] * (ROW_BYTES_MAX[form] + 2 * 4 * 255) <= PIECE_BYTES_MAX


def test_the_usual_page_of_json_is_one_piece() -> None:
    rows = Rows(keys(1), name_bytes=20)
    begin(rows, "json", limit=1000)
    assert rows.asked == [1001]


def missing(risk_type: RiskType) -> list[str]:
    """Return everything that a result of this peril can lack."""
    factors = [factor for _, factor in VULNERABILITY_PERCENTS[risk_type]]
    if risk_type is RiskType.SEA_LEVEL_RISE:
        factors += [SHORE, SEA_LEVEL_GROUND]
    else:
        factors += [factor for _, factor in EXPOSURE_PERCENTS[risk_type]]
    return sorted({*(factor.input_name for factor in factors), *NO_HAZARD, *NO_PROBABILITY})


@pytest.mark.parametrize("risk_type", RiskType)
def test_no_row_is_longer_than_the_bound(risk_type: RiskType) -> None:
    level = max(RiskLevel, key=len)
    key = ("", Scenario.SSP126, 2100, risk_type)
    # What lacks an input lacks four of the numbers, and the level, at least.
    lacking = missing(risk_type)
    for values, names in (
        ((*key, *[LONGEST] * 7, level), []),
        ((*key, *[LONGEST] * 3, *[None] * 5), lacking),
    ):
        record = dict(zip(COLUMNS, (*values, names), strict=True))
        assert len(json.dumps(record, separators=(",", ":"))) + 1 <= ROW_BYTES_MAX["json"]
        fields = ["" if one is None else str(one) for one in values]
        # Quotes, an apostrophe and the end of the line.
        assert len(",".join([*fields, "|".join(names)])) + 5 <= ROW_BYTES_MAX["csv"]


def test_the_budget_has_room_for_a_piece_and_what_the_connection_holds() -> None:
    # The server stops writing at 64 kB, and one slice of as much may be behind that.
    assert resources.API_RESULTS_KB * 1024 >= PIECE_BYTES_MAX + 2 * 64 * 1024
