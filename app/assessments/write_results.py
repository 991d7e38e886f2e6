"""Writing results: three set-based upserts per batch, one array per column."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from app.assessments.batch import TaskResults
from app.database import Work

# Lists of missing names travel as one text a row: arrays of arrays must be rectangular.
SEPARATOR = "|"

WRITE_EXPOSURE = """
INSERT INTO risk.exposure_results (
    assessment_id, site_no, scenario, year, risk_type, exposure_score, missing_inputs)
SELECT %(assessment_id)s, %(site_no)s, scenario, year, risk_type, exposure_score,
       string_to_array(missing, '|')
FROM unnest(%(scenarios)s::risk.scenario[], %(years)s::smallint[],
            %(risk_types)s::risk.risk_type[], %(exposure_scores)s::double precision[],
            %(exposure_missing)s::text[])
     AS result (scenario, year, risk_type, exposure_score, missing)
ON CONFLICT (assessment_id, site_no, scenario, year, risk_type) DO UPDATE
SET exposure_score = excluded.exposure_score, missing_inputs = excluded.missing_inputs
"""

WRITE_VULNERABILITY = """
INSERT INTO risk.vulnerability_results (
    assessment_id, site_no, scenario, year, risk_type, vulnerability_score, missing_inputs)
SELECT %(assessment_id)s, %(site_no)s, scenario, year, risk_type, vulnerability_score,
       string_to_array(missing, '|')
FROM unnest(%(scenarios)s::risk.scenario[], %(years)s::smallint[],
            %(risk_types)s::risk.risk_type[], %(vulnerability_scores)s::double precision[],
            %(vulnerability_missing)s::text[])
     AS result (scenario, year, risk_type, vulnerability_score, missing)
ON CONFLICT (assessment_id, site_no, scenario, year, risk_type) DO UPDATE
SET vulnerability_score = excluded.vulnerability_score,
    missing_inputs = excluded.missing_inputs
"""

WRITE_AAL = """
INSERT INTO risk.aal_scaled_results (
    assessment_id, site_no, scenario, year, risk_type, hazard_score, base_aal, final_aal,
    expected_loss, integrated_risk, risk_level, missing_inputs)
SELECT %(assessment_id)s, %(site_no)s, scenario, year, risk_type, hazard_score, base_aal,
       final_aal, expected_loss, integrated_risk, risk_level, string_to_array(missing, '|')
FROM unnest(%(scenarios)s::risk.scenario[], %(years)s::smallint[],
            %(risk_types)s::risk.risk_type[], %(hazard_scores)s::double precision[],
            %(base_aals)s::double precision[], %(final_aals)s::double precision[],
            %(expected_losses)s::double precision[],
            %(integrated_risks)s::double precision[],
            %(risk_levels)s::risk.risk_level[], %(aal_missing)s::text[])
     AS result (scenario, year, risk_type, hazard_score, base_aal, final_aal,
                expected_loss, integrated_risk, risk_level, missing)
ON CONFLICT (assessment_id, site_no, scenario, year, risk_type) DO UPDATE
SET hazard_score = excluded.hazard_score, base_aal = excluded.base_aal,
    final_aal = excluded.final_aal, expected_loss = excluded.expected_loss,
    integrated_risk = excluded.integrated_risk, risk_level = excluded.risk_level,
    missing_inputs = excluded.missing_inputs
"""


def write_results(
    connection: Work, assessment_id: UUID, site_no: int, entries: Sequence[TaskResults]
) -> None:
    """Insert or replace every result row of the given tasks."""
    columns = {"assessment_id": assessment_id, "site_no": site_no, **_columns(entries)}
    for statement in (WRITE_EXPOSURE, WRITE_VULNERABILITY, WRITE_AAL):
        connection.execute(statement, columns)


def _columns(entries: Sequence[TaskResults]) -> dict[str, str]:
    rows = [(entry.task, result) for entry in entries for result in entry.results]
    results = [result for _, result in rows]
    return {
        "scenarios": _words(task.scenario for task, _ in rows),
        "years": _numbers(task.year for task, _ in rows),
        "risk_types": _words(result.risk_type for result in results),
        "exposure_scores": _numbers(result.exposure_score for result in results),
        "exposure_missing": _missing(result.exposure_missing for result in results),
        "vulnerability_scores": _numbers(result.vulnerability_score for result in results),
        "vulnerability_missing": _missing(result.vulnerability_missing for result in results),
        "hazard_scores": _numbers(result.hazard_score for result in results),
        "base_aals": _numbers(result.base_aal for result in results),
        "final_aals": _numbers(result.final_aal for result in results),
        "expected_losses": _numbers(result.expected_loss for result in results),
        "integrated_risks": _numbers(result.integrated_risk for result in results),
        "risk_levels": _words(result.risk_level for result in results),
        "aal_missing": _missing(result.aal_missing for result in results),
    }


# Array literals are written here because the driver's general list adaptation costs
# several times more for thousands of elements; every word is one of our own constants.
def _numbers(values: Iterable[float | None]) -> str:
    return "{" + ",".join("NULL" if value is None else repr(value) for value in values) + "}"


def _words(values: Iterable[str | None]) -> str:
    return "{" + ",".join("NULL" if value is None else value for value in values) + "}"


def _missing(values: Iterable[tuple[str, ...]]) -> str:
    return "{" + ",".join(f'"{SEPARATOR.join(names)}"' for names in values) + "}"
