"""What an assessment found: its rows in key order, a piece at a time."""

import base64
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from app.database import Work
from app.risk.types import RiskType, Scenario

COLUMNS = (
    "site_id",
    "scenario",
    "year",
    "risk_type",
    "hazard_score",
    "exposure_score",
    "vulnerability_score",
    "base_aal",
    "final_aal",
    "expected_loss",
    "integrated_risk",
    "risk_level",
    "missing_inputs",
)
SMALLINT_MAX = 32767
Form = Literal["json", "csv"]
# The number of its site, and the row as text.
_Row = tuple[int, bytes]
# The most that a piece may be, whatever names its sites have (infra/config/resources.py).
PIECE_BYTES_MAX = 512 * 1024
# The longest row beside its site's name, which quotes or backslashes can make twice as long: six
# words, seven numbers of 22 characters at most or the names of what is missing, and with JSON the
# names of the columns.
ROW_BYTES_MAX = {"json": 480, "csv": 260}


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which rows are wanted; None means all."""

    site_id: str | None = None
    scenario: Scenario | None = None
    year: int | None = None
    risk_type: RiskType | None = None


@dataclass(frozen=True, slots=True)
class ResultKey:
    """The key of a row within its assessment: where a piece or a page ends."""

    site_no: int
    scenario: Scenario
    year: int
    risk_type: RiskType

    def encode(self) -> str:
        """Return the key as an opaque cursor for a URL."""
        text = f"{self.site_no}.{self.scenario}.{self.year}.{self.risk_type}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, cursor: str) -> "ResultKey":
        """Read a cursor back; raise ValueError when it is not one of ours."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
            site_no, scenario, year, risk_type = text.split(".")
            return cls(_small(site_no), Scenario(scenario), _small(year), RiskType(risk_type))
        except ValueError as error:
            raise ValueError("not a cursor of this service") from error


BEFORE_ALL = ResultKey(-1, Scenario.SSP126, 0, RiskType.EXTREME_HEAT)
AFTER_ALL = ResultKey(SMALLINT_MAX, Scenario.SSP585, SMALLINT_MAX, RiskType.WATER_STRESS)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of an assessment in key order, after one key up to another, read `rows` at a time."""

    assessment_id: UUID
    wanted: ResultFilter
    form: Form
    after: ResultKey
    until: ResultKey
    rows: int


@dataclass(frozen=True, slots=True)
class ResultPiece:
    """Rows as UTF-8 of PIECE_BYTES_MAX at most, what is still to be read, and the next page.

    As JSON they are objects with the names of COLUMNS, separated by commas; those that go on with
    an answer begin with one. As CSV (RFC 4180) each is a line with its end: a number that is not
    available is empty, missing inputs are joined by `|`, and the name of a site is in quotes, with
    an apostrophe in front where a spreadsheet would take it for a formula.
    """

    text: bytes
    rest: Stretch | None = None
    next: ResultKey | None = None


class UnknownSiteError(Exception):
    """The assessment has no site of that name."""


# NULL for an assessment that does not exist: one that does has a site. How long a row can be
# depends most on the name of its site, which is the caller's.
NAMES = """
SELECT max(octet_length(site_id)), max(site_no) FILTER (WHERE site_id = %(site_id)s)
FROM risk.assessment_sites
WHERE assessment_id = %(assessment_id)s
"""
ENDED = """
SELECT EXISTS (
    SELECT
    FROM risk.assessments
    WHERE assessment_id = %(assessment_id)s AND finished_at IS NOT NULL
)
"""
# One table, so that a plan without statistics of a fresh assessment reads them in the order of the
# key and stops, however many follow. With the sites joined it sorted all that follow each time.
_STRETCH = """
FROM risk.aal_scaled_results AS result
WHERE assessment_id = %(assessment_id)s
  AND (%(scenario)s::text IS NULL OR scenario = %(scenario)s::text::risk.scenario)
  AND (%(year)s::smallint IS NULL OR year = %(year)s)
  AND (%(risk_type)s::text IS NULL OR risk_type = %(risk_type)s::text::risk.risk_type)
  AND (site_no, scenario, year, risk_type)
      > (%(after_site_no)s, %(after_scenario)s::text::risk.scenario, %(after_year)s,
         %(after_risk_type)s::text::risk.risk_type)
  AND (site_no, scenario, year, risk_type)
      <= (%(until_site_no)s, %(until_scenario)s::text::risk.scenario, %(until_year)s,
          %(until_risk_type)s::text::risk.risk_type)
ORDER BY site_no, scenario, year, risk_type
"""
# Where a page of so many rows ends, and whether another row follows.
END = f"""
SELECT site_no, scenario::text, year, risk_type::text
FROM (SELECT result.* {_STRETCH} OFFSET %(rows)s - 1 LIMIT 2) AS result
"""  # noqa: S608  # constant text only

# The rows are cut out of one table first; the others are then looked up row by row by
# their whole key. Plain joins on five columns tempt the planner, as long as it has no
# statistics of a fresh assessment, to compare every row with every other. The three rows
# of a key come in one transaction, so the inner joins lose nothing.
ROWS = f"""
SELECT aal.site_no, site.site_id, aal.scenario::text, aal.year, aal.risk_type::text,
       aal.hazard_score, exposure.exposure_score, vulnerability.vulnerability_score,
       aal.base_aal, aal.final_aal, aal.expected_loss, aal.integrated_risk,
       aal.risk_level::text,
       CASE WHEN cardinality(missing.names) = 0 THEN missing.names
            ELSE ARRAY(SELECT DISTINCT name FROM unnest(missing.names) AS name ORDER BY name)
       END AS missing_inputs
FROM (SELECT result.* {_STRETCH} LIMIT %(rows)s) AS aal
CROSS JOIN LATERAL (
    SELECT site_id
    FROM risk.assessment_sites AS other
    WHERE (other.assessment_id, other.site_no) = (aal.assessment_id, aal.site_no)
    LIMIT 1
) AS site
CROSS JOIN LATERAL (
    SELECT exposure_score, missing_inputs
    FROM risk.exposure_results AS other
    WHERE (other.assessment_id, other.site_no, other.scenario, other.year, other.risk_type)
        = (aal.assessment_id, aal.site_no, aal.scenario, aal.year, aal.risk_type)
    LIMIT 1
) AS exposure
CROSS JOIN LATERAL (
    SELECT vulnerability_score, missing_inputs
    FROM risk.vulnerability_results AS other
    WHERE (other.assessment_id, other.site_no, other.scenario, other.year, other.risk_type)
        = (aal.assessment_id, aal.site_no, aal.scenario, aal.year, aal.risk_type)
    LIMIT 1
) AS vulnerability
CROSS JOIN LATERAL (
    SELECT exposure.missing_inputs || vulnerability.missing_inputs || aal.missing_inputs
) AS missing (names)
ORDER BY aal.site_no, aal.scenario, aal.year, aal.risk_type
"""  # noqa: S608  # constant text only
# As text by the server: of rows that become Python objects first, the api's process, which has one
# core, spends five times as long on JSON and eight times on CSV. COPY is planned each time, which
# a file may cost and a small page may not.
_BEHIND_NAME = ", ".join(COLUMNS[1:-1])
ROWS_JSON = f"""
SELECT page.site_no, row_to_json(line)::text
FROM ({ROWS}) AS page
CROSS JOIN LATERAL (SELECT page.site_id, {_BEHIND_NAME}, missing_inputs) AS line
"""  # noqa: S608  # constant text only
# Only the names of sites are a caller's own words; a number may begin with a minus. The signs, wide
# ones too, are OWASP's (CSV injection). Quoted, because some spreadsheets split lines at semicolons
# or tabs, and would find a cell that begins with a sign within a name.
FORMULA_SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
ROWS_CSV = f"""
COPY (
    SELECT CASE WHEN strpos(%(formula_signs)s, left(site_id, 1)) > 0
                THEN '''' || site_id ELSE site_id END AS site_id,
           {_BEHIND_NAME}, nullif(array_to_string(missing_inputs, '|'), ''), site_no
    FROM ({ROWS}) AS page
) TO STDOUT WITH (FORMAT csv, FORCE_QUOTE (site_id))
"""  # noqa: S608  # constant text only


def begin_results(
    connection: Work,
    assessment_id: UUID,
    wanted: ResultFilter,
    *,
    after: ResultKey | None,
    limit: int | None,
    form: Form,
) -> ResultPiece | None:
    """Return the first piece of the `limit` rows after a key (of all without a limit).

    Of an assessment that still runs they are no more than one piece has. None when there is no such
    assessment. Raises UnknownSiteError for a site that it does not have.
    """
    names = {"assessment_id": assessment_id, "site_id": wanted.site_id}
    ((longest, site_no),) = connection.execute(NAMES, names)
    if longest is None:
        return None
    if wanted.site_id is not None and site_no is None:
        raise UnknownSiteError
    first, last = BEFORE_ALL, AFTER_ALL
    if site_no is not None:
        first, last = (replace(key, site_no=site_no) for key in (first, last))
    if after is not None and after.site_no >= first.site_no:
        first = after
    rows = PIECE_BYTES_MAX // (ROW_BYTES_MAX[form] + 2 * longest)
    stretch = Stretch(assessment_id, wanted, form, first, last, rows)
    if limit is None:
        return _piece(stretch, _read(connection, stretch))
    if limit >= rows and not _ended(connection, assessment_id):
        # Rows may be stored between two pieces, and would make the page longer than asked for.
        limit = rows - 1
    if limit < rows:
        return _whole_page(connection, replace(stretch, rows=limit))
    end = connection.execute(END, _parameters(stretch, limit)).fetchall()
    following = _key(end[0]) if len(end) > 1 else None
    page = replace(stretch, until=following or last)
    return replace(_piece(page, _read(connection, page)), next=following)


def continue_results(connection: Work, rest: Stretch) -> ResultPiece:
    """Return the next piece of an answer that has begun."""
    piece = _piece(rest, _read(connection, rest))
    if rest.form == "json" and piece.text:
        return replace(piece, text=b"," + piece.text)
    return piece


def _ended(connection: Work, assessment_id: UUID) -> bool:
    ((ended,),) = connection.execute(ENDED, {"assessment_id": assessment_id})
    return bool(ended)


def _whole_page(connection: Work, page: Stretch) -> ResultPiece:
    # One row more shows whether a further page exists.
    rows = _read(connection, replace(page, rows=page.rows + 1))
    following = _row_key(page.form, rows[page.rows - 1]) if len(rows) > page.rows else None
    return ResultPiece(_joined(page.form, rows[: page.rows]), next=following)


def _piece(stretch: Stretch, rows: Sequence[_Row]) -> ResultPiece:
    text = _joined(stretch.form, rows)
    if len(rows) < stretch.rows:
        return ResultPiece(text)
    last = _row_key(stretch.form, rows[-1])
    return ResultPiece(text, None if last == stretch.until else replace(stretch, after=last))


def _read(connection: Work, stretch: Stretch) -> Sequence[_Row]:
    parameters = _parameters(stretch, stretch.rows)
    if stretch.form == "json":
        rows = connection.execute(ROWS_JSON, parameters)
        return [(site_no, line.encode()) for site_no, line in rows]
    with connection.cursor() as cursor, cursor.copy(ROWS_CSV, parameters) as copy:
        # libpq gives one row at a time, which ends in the site's number and a newline.
        found = (bytes(row).rpartition(b",") for row in copy)
        return [(int(site_no), line) for line, _, site_no in found]


def _joined(form: Form, rows: Sequence[_Row]) -> bytes:
    if form == "json":
        return b",".join([line for _, line in rows])
    return b"\r\n".join([*(line for _, line in rows), b""])


def _row_key(form: Form, row: _Row) -> ResultKey:
    site_no, line = row
    text = line.decode()
    if form == "json":
        values = json.loads(text)
    else:
        values = dict(zip(COLUMNS, next(csv.reader([text])), strict=True))
    return _key((site_no, *(values[name] for name in COLUMNS[1:4])))


def _key(values: Sequence[Any]) -> ResultKey:
    site_no, scenario, year, risk_type = values
    return ResultKey(site_no, Scenario(scenario), int(year), RiskType(risk_type))


def _small(text: str) -> int:
    number = int(text)
    # Both columns are smallint: a forged cursor must not overflow them.
    if not 0 <= number <= SMALLINT_MAX:
        raise ValueError(f"{number} is out of range")
    return number


def _parameters(stretch: Stretch, rows: int) -> dict[str, object]:
    wanted, after, until = stretch.wanted, stretch.after, stretch.until
    return {
        "assessment_id": stretch.assessment_id,
        "scenario": wanted.scenario and wanted.scenario.value,
        "year": wanted.year,
        "risk_type": wanted.risk_type and wanted.risk_type.value,
        "after_site_no": after.site_no,
        "after_scenario": after.scenario.value,
        "after_year": after.year,
        "after_risk_type": after.risk_type.value,
        "until_site_no": until.site_no,
        "until_scenario": until.scenario.value,
        "until_year": until.year,
        "until_risk_type": until.risk_type.value,
        "rows": rows,
        "formula_signs": FORMULA_SIGNS,
    }
