"""What an assessment found, in short: averages, the highest risks, sums by year and site."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from app.database import Work

Record = Mapping[str, Any]
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
