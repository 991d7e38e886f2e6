"""Writing results: one statement per batch for all three tables, one array per column."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from app.assessments.batch import TaskResults
from app.database import Work

# Lists of missing names travel as one text a row: arrays of arrays must be rectangular.
SEPARATOR = "|"

# One round trip, and what the tables share is sent and read once. No ON CONFLICT: under the fence
# that goes before it a task is done once, and its rows are written with that. To look for a row
# that cannot be there cost a quarter of the time.
WRITE = """
WITH result AS MATERIALIZED (
    SELECT %(assessment_id)s::uuid AS assessment_id, %(site_no)s::smallint AS site_no, batch.*
    FROM unnest(%(scenarios)s::risk.scenario[], %(years)s::smallint[],
                %(risk_types)s::risk.risk_type[],
                %(exposure_scores)s::double precision[], %(exposure_missing)s::text[],
                %(vulnerability_scores)s::double precision[], %(vulnerability_missing)s::text[],
                %(hazard_scores)s::double precision[], %(base_aals)s::double precision[],
                %(final_aals)s::double precision[], %(expected_losses)s::double precision[],
                %(integrated_risks)s::double precision[], %(risk_levels)s::risk.risk_level[],
                %(aal_missing)s::text[])
         AS batch (scenario, year, risk_type, exposure_score, exposure_missing,
                   vulnerability_score, vulnerability_missing, hazard_score, base_aal, final_aal,
                   expected_loss, integrated_risk, risk_level, aal_missing)
), exposure AS (
    INSERT INTO risk.exposure_results (
        assessment_id, site_no, scenario, year, risk_type, exposure_score, missing_inputs)
    SELECT assessment_id, site_no, scenario, year, risk_type, exposure_score,
           string_to_array(exposure_missing, '|')
    FROM result
), vulnerability AS (
    INSERT INTO risk.vulnerability_results (
        assessment_id, site_no, scenario, year, risk_type, vulnerability_score, missing_inputs)
    SELECT assessment_id, site_no, scenario, year, risk_type, vulnerability_score,
           string_to_array(vulnerability_missing, '|')
    FROM result
)
INSERT INTO risk.aal_scaled_results (
    assessment_id, site_no, scenario, year, risk_type, hazard_score, base_aal, final_aal,
    expected_loss, integrated_risk, risk_level, missing_inputs)
SELECT assessment_id, site_no, scenario, year, risk_type, hazard_score, base_aal, final_aal,
       expected_loss, integrated_risk, risk_level, string_to_array(aal_missing, '|')
FROM result
"""


def write_results(
    connection: Work, assessment_id: UUID, site_no: int, entries: Sequence[TaskResults]
) -> None:
    """Insert every result row of the given tasks, of which none has any yet."""
    columns = {"assessment_id": assessment_id, "site_no": site_no, **_columns(entries)}
    connection.execute(WRITE, columns)


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
