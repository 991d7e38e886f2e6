"""One key, one assessment."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.fix_api import BUSAN, Api, assessment_body
from tests.fix_secrets import Secrets
from tests.fix_sql import Sql
from tests.fix_stack import poll


def test_the_same_key_and_body_give_the_same_assessment(api: Api, unique_key: str) -> None:
    first = api.submit(assessment_body(), key=unique_key)
    again = api.submit(assessment_body(), key=unique_key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["assessment_id"] == again.json()["assessment_id"]
    assert first.headers["Location"] == again.headers["Location"]


def test_a_repeat_is_not_judged_by_a_grid_that_came_later(
    api: Api, sql: Sql, unique_key: str
) -> None:
    first = api.submit(assessment_body(), key=unique_key)
    north = sql.value("SELECT max_latitude FROM reference.grid")
    sql.rows("UPDATE reference.grid SET max_latitude = min_latitude + 0.1")
    try:
        assert api.submit(assessment_body()).status_code == 422
        again = api.submit(assessment_body(), key=unique_key)
    finally:
        sql.rows(f"UPDATE reference.grid SET max_latitude = {north}")
    assert again.status_code == 202, again.text
    assert again.json()["assessment_id"] == first.json()["assessment_id"]


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


@contextmanager
def no_standby(secrets: Secrets, sql: Sql) -> Iterator[None]:
    """Have every COMMIT wait for a standby that there is not, until the end of the block."""
    line, file = "synchronous_standby_names = 'nobody'", "/out/postgres/postgresql.conf"
    secrets.sh(f'echo "{line}" >>{file}')
    # The checkpointer says whether a COMMIT waits, and in a checkpoint it does not look.
    sql.rows("CHECKPOINT")
    try:
        sql.rows("SELECT pg_reload_conf()")
        yield
    finally:
        secrets.sh(f'sed -i "/^{line}/d" {file}')
        sql.rows("SELECT pg_reload_conf()")


def test_a_commit_that_still_waits_is_not_said_to_have_changed_nothing(
    api: Api, sql: Sql, secrets: Secrets, unique_key: str
) -> None:
    stored = f"SELECT count(*) FROM risk.assessments WHERE idempotency_key = '{unique_key}'"
    with no_standby(secrets, sql):
        answer = api.submit(assessment_body(), key=unique_key)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "commit_outcome_unknown"
        # What a lookup sees too.
        assert sql.value(stored) == "0"
    poll(lambda: sql.value(stored) == "1", seconds=30, what="the COMMIT succeeds after all")
    again = api.submit(assessment_body(), key=unique_key)
    assert again.status_code == 202
    assert sql.value(stored) == "1"
