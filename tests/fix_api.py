"""The api as a caller sees it, over its published port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fix_stack import Stack, poll

SEOUL = {"site_id": "seoul", "latitude": 37.5665, "longitude": 126.978}
BUSAN = {"site_id": "busan", "latitude": 35.1796, "longitude": 129.0756}
ASSESSMENTS = "/api/v1/site-assessments"


def assessment_body(*sites: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a valid request for the sites (Seoul where none is given), with changes."""
    return {
        "sites": list(sites) or [SEOUL],
        "asset_value": 1_000_000_000,
        "insurance_coverage_rate": 0.3,
        "scenarios": ["SSP126", "SSP245", "SSP370", "SSP585"],
        "years": {"from": 2021, "to": 2100},
        **changes,
    }


class Api:
    """Calls the contract's endpoints; every call is bounded in time."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def submit(self, body: dict[str, Any], *, key: str | None = None) -> httpx.Response:
        """Post an assessment."""
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post(ASSESSMENTS, json=body, headers=headers)

    def status(self, assessment_id: str) -> dict[str, Any]:
        """Return the assessment's status document."""
        response = self.http.get(f"{ASSESSMENTS}/{assessment_id}")
        response.raise_for_status()
        return dict(response.json())

    def wait_finished(self, assessment_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """Return the status document once the assessment has ended."""

        def ended() -> dict[str, Any] | None:
            document = self.status(assessment_id)
            return document if document["status"] in ("succeeded", "failed") else None

        return poll(ended, seconds=seconds, what=f"assessment {assessment_id} ends") or {}

    def run(self, body: dict[str, Any], *, seconds: float = 60) -> dict[str, Any]:
        """Submit an assessment and return its final status document."""
        response = self.submit(body)
        assert response.status_code == 202, response.text
        return self.wait_finished(response.json()["assessment_id"], seconds=seconds)


@pytest.fixture(scope="session")
def api(stack: Stack, settings: dict[str, str]) -> Iterator[Api]:
    """Return a client of the running api."""
    with httpx.Client(base_url=f"http://127.0.0.1:{settings['API_PORT']}", timeout=15) as http:
        yield Api(http)


@pytest.fixture(scope="session")
def finished(api: Api) -> dict[str, Any]:
    """Return the final status of one assessment of two sites, shared by the tests that read."""
    return api.run(assessment_body(SEOUL, BUSAN))


@pytest.fixture
def unique_key() -> str:
    """Return an idempotency key that no earlier run used."""
    return f"test-{time.time_ns()}"
