"""Bad input over HTTP: a clear 4xx that names the field, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fix_api import ASSESSMENTS, SEOUL, Api, assessment_body
from tests.fix_sql import Sql


def site(**changes: Any) -> dict[str, Any]:
    """Return the sample site with changes."""
    return {**SEOUL, **changes}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no sites": (assessment_body() | {"sites": []}, "sites"),
    "duplicate sites": (assessment_body(SEOUL, SEOUL), "seoul"),
    "ten thousand sites": (
        assessment_body(*[site(site_id=f"s{number}") for number in range(10_000)]),
        "sites",
    ),
    "outside the reference area": (assessment_body(site(latitude=10.0)), "latitude"),
    "latitude beyond the pole": (assessment_body(site(latitude=91)), "latitude"),
    "longitude as text": (assessment_body(site(longitude="east")), "longitude"),
    "longitude as truth value": (assessment_body(site(longitude=True)), "longitude"),
    "unknown scenario": (assessment_body(scenarios=["SSP999"]), "scenarios"),
    "no scenario": (assessment_body(scenarios=[]), "scenarios"),
    "scenario given twice": (assessment_body(scenarios=["SSP126", "SSP126"]), "scenarios"),
    "year before the data": (assessment_body(years={"from": 1999, "to": 2030}), "years"),
    "year after the data": (assessment_body(years={"from": 2021, "to": 2101}), "years"),
    "years the wrong way round": (assessment_body(years={"from": 2050, "to": 2040}), "years"),
    "year with a fraction": (assessment_body(years={"from": 2021.5, "to": 2040}), "years"),
    "negative asset value": (assessment_body(asset_value=-1), "asset_value"),
    "overflowing asset value": (assessment_body(asset_value=10**400), "asset_value"),
    "rate above one": (assessment_body(insurance_coverage_rate=1.5), "insurance_coverage_rate"),
    "NUL in the site id": (assessment_body(site(site_id="a\0b")), "site_id"),
    "empty site id": (assessment_body(site(site_id="")), "site_id"),
    "overlong site id": (assessment_body(site(site_id="x" * 5000)), "site_id"),
    "unknown field": (assessment_body(discount=3), "discount"),
    "missing field": ({"sites": [SEOUL]}, "asset_value"),
}

RAW: dict[str, tuple[bytes, int]] = {
    "NaN": (json.dumps(assessment_body(asset_value=float("nan"))).encode(), 422),
    "infinity": (json.dumps(assessment_body(asset_value=float("inf"))).encode(), 422),
    "huge exponent": (
        json.dumps(assessment_body()).replace("1000000000", "1e999").encode(),
        422,
    ),
    "lone surrogate": (json.dumps(assessment_body(site(site_id="\ud800"))).encode(), 422),
    "not JSON": (b"{sites", 422),
    "not UTF-8": (b'{"sites": "\xff"}', 422),
    "a list": (b"[]", 422),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000, 422),
    "nothing": (b"", 422),
    "ten megabytes": (b'{"sites": "' + b"x" * 10_000_000 + b'"}', 413),
}


@pytest.fixture(autouse=True)
def _nothing_is_written(sql: Sql) -> Iterator[None]:
    count = "SELECT count(*) FROM risk.assessments"
    before = sql.value(count)
    yield
    assert sql.value(count) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_value_is_refused_by_name(api: Api, name: str) -> None:
    body, field = REFUSED[name]
    answer = api.submit(body)
    assert answer.status_code == 422, answer.text[:500]
    assert field in answer.text
    assert answer.json()["error"]["message"]
    assert len(answer.text) < 20_000


@pytest.mark.parametrize("name", RAW)
def test_a_malformed_body_is_refused(api: Api, name: str) -> None:
    content, status = RAW[name]
    headers = {"Content-Type": "application/json"}
    answer = api.http.post(ASSESSMENTS, content=content, headers=headers)
    assert answer.status_code == status, answer.text[:500]
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("key", ["", "x" * 5000, "tab\there"])
def test_a_wrong_idempotency_key_is_refused(api: Api, key: str) -> None:
    answer = api.http.post(ASSESSMENTS, json=assessment_body(), headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert "idempotency-key" in answer.text.lower()


@pytest.mark.parametrize("tail", ["", "/results", "/summary", "/events"])
def test_a_bad_uuid_is_refused_and_an_unknown_one_not_found(api: Api, tail: str) -> None:
    assert api.http.get(f"{ASSESSMENTS}/not-a-uuid{tail}").status_code == 422
    unknown = f"{ASSESSMENTS}/00000000-0000-0000-0000-000000000000{tail}"
    assert api.http.get(unknown).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "scenario=SSP999",
        "year=1800",
        "year=x",
        "risk_type=fire",
        "format=xml",
        "limit=0",
        "limit=100000000",
        "cursor=%00",
        "cursor=nonsense",
        "site_id=%00",
    ],
)
def test_a_wrong_filter_is_refused_by_name(api: Api, finished: dict[str, Any], query: str) -> None:
    answer = api.http.get(f"{ASSESSMENTS}/{finished['assessment_id']}/results?{query}")
    assert answer.status_code == 422, answer.text[:500]
    assert query.split("=")[0] in answer.text
