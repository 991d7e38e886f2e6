"""What an assessment found: its rows page by page in key order, and aggregates of them."""

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which rows are wanted; None means all."""

    site_id: str | None = None
    scenario: Scenario | None = None
    year: int | None = None
    risk_type: RiskType | None = None


@dataclass(frozen=True, slots=True)
class ResultKey:
    """Where a page ended: the key of its last row."""

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


@dataclass(frozen=True, slots=True)
class ResultPage:
    """One line of UTF-8 per row, without a line end, and where the next page starts, if one does.

    As JSON a line is an object with the names of COLUMNS, as CSV (RFC 4180) their values: a number
    that is not available is empty there, and missing inputs are joined by `|`.
    """

    lines: Sequence[bytes]
    next: ResultKey | None


class UnknownSiteError(Exception):
    """The assessment has no site of that name."""


EXISTS = """
SELECT %(site_id)s::text IS NULL OR EXISTS (
    SELECT FROM risk.assessment_sites
    WHERE assessment_id = %(assessment_id)s AND site_id = %(site_id)s)
FROM risk.assessments
WHERE assessment_id = %(assessment_id)s
"""

# The page is cut out of one table first; the other two are then looked up row by row by
# their whole key. Plain joins on five columns tempt the planner, as long as it has no
# statistics of a fresh assessment, to compare every row with every other. The three rows
# of a key come in one transaction, so the inner joins lose nothing.
PAGE = """
SELECT aal.site_no, aal.site_id, aal.scenario::text, aal.year, aal.risk_type::text,
       aal.hazard_score, exposure.exposure_score, vulnerability.vulnerability_score,
       aal.base_aal, aal.final_aal, aal.expected_loss, aal.integrated_risk,
       aal.risk_level::text,
       CASE WHEN cardinality(missing.names) = 0 THEN missing.names
            ELSE ARRAY(SELECT DISTINCT name FROM unnest(missing.names) AS name ORDER BY name)
       END AS missing_inputs
FROM (
    SELECT result.*, site.site_id
    FROM risk.assessment_sites AS site
    JOIN risk.aal_scaled_results AS result USING (assessment_id, site_no)
    WHERE result.assessment_id = %(assessment_id)s
      AND (%(site_id)s::text IS NULL OR site.site_id = %(site_id)s)
      AND (%(scenario)s::text IS NULL
           OR result.scenario = %(scenario)s::text::risk.scenario)
      AND (%(year)s::smallint IS NULL OR result.year = %(year)s)
      AND (%(risk_type)s::text IS NULL
           OR result.risk_type = %(risk_type)s::text::risk.risk_type)
      AND (result.site_no, result.scenario, result.year, result.risk_type)
          > (%(after_site_no)s, %(after_scenario)s::text::risk.scenario, %(after_year)s,
             %(after_risk_type)s::text::risk.risk_type)
    ORDER BY result.site_no, result.scenario, result.year, result.risk_type
    LIMIT %(limit)s
) AS aal
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
"""
# As text by the server: of rows that become Python objects first, the api's process, which has one
# core, spends five times as long on JSON and eight times on CSV. COPY is planned each time, which
# a file may cost and a small page may not.
_FIELDS = ", ".join(COLUMNS[:-1])
PAGE_JSON = f"""
SELECT row_to_json(line)::text
FROM (SELECT {_FIELDS}, missing_inputs FROM ({PAGE}) AS page) AS line
"""  # noqa: S608  # constant text only
PAGE_CSV = f"""
COPY (SELECT {_FIELDS}, nullif(array_to_string(missing_inputs, '|'), '') FROM ({PAGE}) AS page)
TO STDOUT WITH (FORMAT csv)
"""  # noqa: S608  # constant text only
SITE_NUMBER = """
SELECT site_no
FROM risk.assessment_sites
WHERE assessment_id = %(assessment_id)s AND site_id = %(site_id)s
"""

BEFORE_ALL = ResultKey(-1, Scenario.SSP126, 0, RiskType.EXTREME_HEAT)


def read_results(
    connection: Work,
    assessment_id: UUID,
    wanted: ResultFilter,
    *,
    after: ResultKey | None,
    limit: int,
    form: Form,
) -> ResultPage | None:
    """Return the next `limit` rows after a key; None when there is no such assessment.

    Raises UnknownSiteError for a site that the assessment does not have.
    """
    # One row more shows whether a further page exists.
    parameters = _parameters(assessment_id, wanted, after or BEFORE_ALL, limit + 1)
    if form == "json":
        lines = [row[0].encode() for row in connection.execute(PAGE_JSON, parameters)]
    else:
        with connection.cursor() as cursor, cursor.copy(PAGE_CSV, parameters) as copy:
            # libpq gives one row at a time, which ends in the server's newline.
            lines = [bytes(row)[:-1] for row in copy]
    if not lines:
        return _no_lines(connection, assessment_id, wanted)
    if len(lines) <= limit:
        return ResultPage(lines, None)
    last = lines[limit - 1].decode()
    if form == "json":
        row = json.loads(last)
    else:
        row = dict(zip(COLUMNS, next(csv.reader([last])), strict=True))
    return ResultPage(lines[:limit], _key(connection, assessment_id, row))


def _no_lines(connection: Work, assessment_id: UUID, wanted: ResultFilter) -> ResultPage | None:
    found = connection.execute(
        EXISTS, {"assessment_id": assessment_id, "site_id": wanted.site_id}
    ).fetchone()
    if found is None:
        return None
    if not found[0]:
        raise UnknownSiteError
    return ResultPage([], None)


def _key(connection: Work, assessment_id: UUID, row: Record) -> ResultKey:
    parameters = {"assessment_id": assessment_id, "site_id": row["site_id"]}
    site = connection.execute(SITE_NUMBER, parameters).fetchone()
    if site is None:
        raise RuntimeError("a result is of a site that its assessment does not have")
    scenario, risk_type = Scenario(row["scenario"]), RiskType(row["risk_type"])
    return ResultKey(site[0], scenario, int(row["year"]), risk_type)


def _small(text: str) -> int:
    number = int(text)
    # Both columns are smallint: a forged cursor must not overflow them.
    if not 0 <= number <= SMALLINT_MAX:
        raise ValueError(f"{number} is out of range")
    return number


def _parameters(
    assessment_id: UUID, wanted: ResultFilter, after: ResultKey, limit: int
) -> dict[str, object]:
    return {
        "assessment_id": assessment_id,
        "site_id": wanted.site_id,
        "scenario": wanted.scenario and wanted.scenario.value,
        "year": wanted.year,
        "risk_type": wanted.risk_type and wanted.risk_type.value,
        "after_site_no": after.site_no,
        "after_scenario": after.scenario.value,
        "after_year": after.year,
        "after_risk_type": after.risk_type.value,
        "limit": limit,
    }


HIGHEST_SHOWN = 10

STATUS = """
SELECT status
FROM risk.assessments
WHERE assessment_id = %(assessment_id)s
"""

# Each table is aggregated by itself and nine rows are joined: without statistics of a
# fresh assessment the planner makes a bad join of its rows.
AVERAGES = """
SELECT aal.risk_type::text AS risk_type, aal.hazard_score, exposure.exposure_score,
       vulnerability.vulnerability_score, aal.final_aal, aal.expected_loss,
       aal.integrated_risk, aal.results, aal.missing_inputs
FROM (
    SELECT risk_type, avg(hazard_score) AS hazard_score, avg(final_aal) AS final_aal,
           avg(expected_loss) AS expected_loss, avg(integrated_risk) AS integrated_risk,
           count(*) AS results,
           count(*) FILTER (WHERE cardinality(missing_inputs) > 0) AS missing_inputs
    FROM risk.aal_scaled_results
    WHERE assessment_id = %(assessment_id)s
    GROUP BY risk_type
) AS aal
LEFT JOIN (
    SELECT risk_type, avg(exposure_score) AS exposure_score
    FROM risk.exposure_results
    WHERE assessment_id = %(assessment_id)s
    GROUP BY risk_type
) AS exposure USING (risk_type)
LEFT JOIN (
    SELECT risk_type, avg(vulnerability_score) AS vulnerability_score
    FROM risk.vulnerability_results
    WHERE assessment_id = %(assessment_id)s
    GROUP BY risk_type
) AS vulnerability USING (risk_type)
ORDER BY aal.risk_type
"""

# The distinct pairs of site and peril, each with its worst scenario and year.
HIGHEST = """
SELECT site.site_id, worst.risk_type::text AS risk_type, worst.scenario::text AS scenario,
       worst.year, worst.integrated_risk, worst.risk_level::text AS risk_level
FROM (
    SELECT DISTINCT ON (site_no, risk_type)
           site_no, risk_type, scenario, year, integrated_risk, risk_level
    FROM risk.aal_scaled_results
    WHERE assessment_id = %(assessment_id)s AND integrated_risk IS NOT NULL
    ORDER BY site_no, risk_type, integrated_risk DESC, year, scenario
) AS worst
JOIN risk.assessment_sites AS site
     ON site.assessment_id = %(assessment_id)s AND site.site_no = worst.site_no
ORDER BY worst.integrated_risk DESC, worst.site_no, worst.risk_type
"""

AAL_BY_YEAR = """
SELECT scenario::text AS scenario, year,
       sum(final_aal) AS final_aal, sum(expected_loss) AS expected_loss,
       count(*) FILTER (WHERE final_aal IS NULL) AS missing_inputs
FROM risk.aal_scaled_results
WHERE assessment_id = %(assessment_id)s
GROUP BY scenario, year
ORDER BY scenario, year
"""

# A mean over the scenario-years of the yearly sum over perils: what the site is expected
# to lose in a year.
SITES = """
SELECT site.site_id, avg(yearly.final_aal) AS mean_final_aal,
       avg(yearly.expected_loss) AS mean_expected_loss,
       coalesce(sum(yearly.missing_inputs), 0)::integer AS missing_inputs
FROM risk.assessment_sites AS site
LEFT JOIN (
    SELECT site_no, sum(final_aal) AS final_aal, sum(expected_loss) AS expected_loss,
           count(*) FILTER (WHERE cardinality(missing_inputs) > 0) AS missing_inputs
    FROM risk.aal_scaled_results
    WHERE assessment_id = %(assessment_id)s
    GROUP BY site_no, scenario, year
) AS yearly USING (site_no)
WHERE site.assessment_id = %(assessment_id)s
GROUP BY site.site_no, site.site_id
ORDER BY site.site_no
"""


def read_summary(connection: Work, assessment_id: UUID) -> dict[str, Any] | None:
    """Return status, averages by peril, the highest risks, AAL by year and one line per site.

    A number that rests on rows with missing inputs has their count beside it. Empty
    lists when there is no result yet; None when there is no such assessment. The status is read
    first: what is read after it is complete when it says that the assessment ended.
    """
    parameters = {"assessment_id": assessment_id}
    status = connection.execute(STATUS, parameters).fetchone()
    if status is None:
        return None

    def records(query: str) -> list[dict[str, Any]]:
        with connection.cursor() as cursor:
            rows = cursor.execute(query, parameters).fetchall()
            names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    highest = records(HIGHEST)
    return {
        "status": status[0],
        "averages": records(AVERAGES),
        "highest_risks": highest[:HIGHEST_SHOWN],
        "aal_by_year": records(AAL_BY_YEAR),
        "sites": [_with_highest(site, highest) for site in records(SITES)],
    }


def _with_highest(site: dict[str, Any], highest: Sequence[Record]) -> dict[str, Any]:
    found = next((risk for risk in highest if risk["site_id"] == site["site_id"]), None)
    return {**site, "highest_risk": found}
