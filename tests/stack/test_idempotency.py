"""One key, one assessment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.fix_api import BUSAN, Api, assessment_body
from tests.fix_sql import Sql


def test_the_same_key_and_body_give_the_same_assessment(api: Api, unique_key: str) -> None:
    first = api.submit(assessment_body(), key=unique_key)
    again = api.submit(assessment_body(), key=unique_key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["assessment_id"] == again.json()["assessment_id"]
    assert first.headers["Location"] == again.headers["Location"]


def test_the_same_key_and_another_body_are_refused(api: Api, unique_key: str) -> None:
    api.submit(assessment_body(), key=unique_key)
    other = api.submit(assessment_body(BUSAN), key=unique_key)
    assert other.status_code == 422
    assert "idempotency-key" in str(other.json()["error"]).lower()


def test_twenty_submissions_at_once_with_one_key_make_one_assessment(
    api: Api, sql: Sql, unique_key: str
) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(
            threads.map(lambda _: api.submit(assessment_body(), key=unique_key), range(20))
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["assessment_id"] for answer in answers}) == 1
    stored = sql.value(
        f"SELECT count(*) FROM risk.assessments WHERE idempotency_key = '{unique_key}'"
    )
    assert stored == "1"


def test_without_a_key_every_submission_is_its_own_assessment(api: Api) -> None:
    first, second = api.submit(assessment_body()), api.submit(assessment_body())
    assert first.json()["assessment_id"] != second.json()["assessment_id"]
