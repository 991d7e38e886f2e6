"""The incident's access pattern and how its outcome is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from app.risk import Scenario
from loadtest.compare.lab import run_site
from loadtest.compare.pattern import (
    TERMS,
    Row,
    Task,
    differences,
    digest,
    run_task,
    tasks,
)
from loadtest.compare.stack import acquisition_percentiles, parse_acquisitions
from loadtest.compare.ways import Tally

ANSWERS: dict[str, Row] = {
    "hazard_results": (50.0,),
    "probability_results": ([0.1, 0.01], [0.2, 0.5]),
    "SELECT structure": ("steel", 4, 1990, True),
    "SELECT river": (300.0,),
    "SELECT coast": (9000.0,),
    "SELECT elevation_m F": (12.0,),
    "SELECT elevation_m,": (12.0, 300.0, 9000.0),
    "population": (100_000.0,),
}


class Scripted:
    """A way that answers from a table and can be made to fail."""

    def __init__(self, fail_at: int = 0) -> None:
        self.statements: Counter[str] = Counter()
        self.rows: list[Mapping[str, Any]] = []
        self._fail_at = fail_at

    def operation(self, tally: Tally, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        tally.operations += 1
        self.statements[statement.split()[0]] += 1
        if self.statements.total() == self._fail_at:
            raise ConnectionError("sorry, too many clients already")
        if statement.startswith("INSERT"):
            self.rows.append(parameters)
            return None
        return next(row for part, row in ANSWERS.items() if part in statement)

    def task_ended(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_task_makes_twelve_operations_per_risk_type() -> None:
    way, tally = Scripted(), Tally()
    task = Task("a", 1, Scenario.SSP126, 2030)
    run_task(task, TERMS, lambda *call: way.operation(tally, *call))
    assert way.statements == {"SELECT": 81, "INSERT": 27}
    assert tally.operations == 9 * 12
    assert all(row["final_aal"] is not None for row in way.rows)


def test_a_site_is_320_tasks() -> None:
    assert len(list(tasks("a", 1, 80))) == 320


def test_a_task_that_raises_is_counted_as_lost() -> None:
    site = run_site(Scripted(fail_at=5), tasks("a", 1, 1), seconds_max=30, label="scripted")
    assert (site.done, site.lost, site.unfinished) == (3, 1, 0)


def test_a_run_ends_when_its_time_is_over() -> None:
    site = run_site(Scripted(), tasks("a", 1, 1), seconds_max=-1, label="scripted")
    assert (site.done, site.lost, site.unfinished) == (0, 0, 4)


def test_equal_rows_have_equal_digests_and_others_are_named() -> None:
    one = {"SSP126 2030 drought": [1.0, None]}
    other = {"SSP126 2030 drought": [1.0000000001, None]}
    assert digest(one) == digest(dict(one))
    assert digest(one) != digest(other)
    assert len(differences(one, other)) == 1


def test_acquisition_is_the_difference_of_two_readings() -> None:
    line = 'dbpool_acquire_seconds_bucket{{le="{}",pool="risk_batch"}} {}.0'
    before = parse_acquisitions("\n".join([line.format("0.001", 5), line.format("+Inf", 5)]))
    after = parse_acquisitions("\n".join([line.format("0.001", 104), line.format("+Inf", 105)]))
    found = acquisition_percentiles(before, after)
    assert found["count"] == 100
    assert found["p95_ms"] == pytest.approx(1.0)
