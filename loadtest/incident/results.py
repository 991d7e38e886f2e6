"""Result rows by key, from the tables or from the api, so that two ways can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from loadtest.incident.ways import arguments

Rows = dict[str, list[Any]]

FIGURES = (
    "hazard_score",
    "exposure_score",
    "vulnerability_score",
    "base_aal",
    "final_aal",
    "expected_loss",
    "integrated_risk",
    "risk_level",
)
# The same columns as the api gives.
SELECT = """
SELECT aal.scenario::text, aal.year, aal.risk_type::text, hazard_score, exposure_score,
       vulnerability_score, base_aal, final_aal, expected_loss, integrated_risk,
       risk_level::text
FROM risk.aal_scaled_results AS aal
JOIN risk.exposure_results USING (assessment_id, site_no, scenario, year, risk_type)
JOIN risk.vulnerability_results USING (assessment_id, site_no, scenario, year, risk_type)
WHERE assessment_id = %s
"""
DIFFERENCES_MAX = 5


def from_tables(assessment_id: str) -> Rows:
    """Read an assessment's results in the lab, directly."""
    with psycopg.connect(**arguments("direct")) as connection:
        found = connection.execute(SELECT, (assessment_id,)).fetchall()
    return {_key(row[0], row[1], row[2]): list(row[3:]) for row in found}


def from_api(rows: Iterable[Mapping[str, Any]]) -> Rows:
    """Return rows of the api's results in the same form."""
    return {
        _key(row["scenario"], row["year"], row["risk_type"]): [row[name] for name in FIGURES]
        for row in rows
    }


def digest(rows: Rows) -> str:
    """Return a SHA-256 of every figure; equal rows give equal digests."""
    text = json.dumps(sorted(rows.items()), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(one: Rows, other: Rows) -> list[str]:
    """Return the first keys whose figures are not the same, with both."""
    keys = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    return [f"{key}: {one.get(key)} / {other.get(key)}" for key in keys[:DIFFERENCES_MAX]]


def _key(scenario: str, year: int, risk_type: str) -> str:
    return f"{scenario} {year} {risk_type}"
