"""Every query of the dashboards, and what no metric has, asked of the Prometheus of the stack."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from typing import Any, Protocol

import pytest

from tests.fix_api import ASSESSMENTS, Api, assessment_body
from tests.fix_sql import Sql
from tests.fix_stack import REPOSITORY, Stack, poll
from tests.ops.test_logs import locked_table

# What Grafana puts there; the fixture has everything scraped once a second.
RATE_INTERVAL = "30s"


class Prometheus(Protocol):
    """What is asked of the fixture `observers`."""

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""


def queries() -> dict[str, str]:
    """Return the query of each line of each panel, by where it stands."""
    found = {}
    for file in sorted((REPOSITORY / "infra" / "observability" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                where = f"{file.stem}: {panel['title']}: {target['legendFormat']}"
                found[where] = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
    return found


@pytest.mark.slow
def test_every_query_of_the_dashboards_has_data(observers: Prometheus, api: Api) -> None:
    wanted = queries()
    assert len(wanted) > 40
    # Something to look at: requests, tasks, transactions.
    api.run(assessment_body())

    def empty() -> list[str]:
        return [where for where, query in wanted.items() if not observers.query(query)]

    # Rates need two scrapes. A failure names the queries without data.
    missing = ["not asked yet"]

    def none_is_empty() -> bool:
        missing[:] = empty()
        return not missing

    with contextlib.suppress(pytest.fail.Exception):
        poll(none_is_empty, seconds=60, what="data", every=2)
    assert missing == []


@pytest.mark.slow
def test_no_metric_has_the_id_of_a_request(
    observers: Prometheus, stack: Stack, sql: Sql, api: Api
) -> None:
    request = uuid.uuid4().hex
    caller = threading.Thread(
        target=lambda: api.http.post(
            ASSESSMENTS, json=assessment_body(), headers={"X-Request-ID": request}
        )
    )
    # A transaction that is seen by a scrape.
    with locked_table(stack, sql):
        caller.start()
        poll(
            lambda: observers.query('pg_stat_activity_count{application_name="sluice-api/submit"}'),
            seconds=20,
            what="the exporter reads sluice.pg_stat_activity (its search_path), without ids",
        )
    caller.join(30)
    assert observers.query('{__name__=~"pg_.*", application_name=~".*/.*/.*"}') == []
