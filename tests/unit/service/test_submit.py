"""Storing a submission: what a repeat gets once the reference grid is another."""

import uuid
from typing import Any

import pytest

from app.assessments import submit as submit_module
from app.assessments.submit import (
    Accepted,
    ReferenceDataMissingError,
    Site,
    SitesOutsideAreaError,
    Submission,
    submit,
)
from app.pool import CONFIRM
from app.risk.types import Scenario

FIRST = Accepted(uuid.uuid4(), "running", 2, b"hash")
SITE = Site("seoul", 37.5, 127.0)
OUTSIDE = (33.0, 34.0, 124.5, 131.0, None)


class Stored:
    """A connection to a database with this grid, and with one assessment under the key `known`."""

    def __init__(self, grid: list[tuple[Any, ...]]) -> None:
        self.grid = grid
        self.executed: list[str] = []
        self._found: tuple[Any, ...] | None = None

    def execute(self, query: str, parameters: dict[str, Any] | None = None) -> "Stored":
        self.executed.append(query)
        if query == submit_module.FIND_BY_KEY:
            assert parameters is not None
            stored = (FIRST.assessment_id, FIRST.status, FIRST.total_tasks, FIRST.request_hash)
            self._found = stored if parameters["idempotency_key"] == "known" else None
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.grid

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._found


def repeat(key: str) -> Submission:
    return Submission(uuid.uuid4(), key, b"hash", (SITE,), 1e9, 0.3, (Scenario.SSP126,), 2030, 2031)


@pytest.mark.parametrize(
    ("grid", "error"),
    [([OUTSIDE], SitesOutsideAreaError), ([], ReferenceDataMissingError)],
    ids=["another grid", "none"],
)
def test_only_what_is_new_is_judged_by_the_grid_of_now(
    grid: list[tuple[Any, ...]], error: type[Exception]
) -> None:
    connection: Any = Stored(grid)
    assert submit(connection, repeat("known")) == FIRST
    # On a standby too before the caller hears of it.
    assert connection.executed[-1] == CONFIRM
    with pytest.raises(error):
        submit(connection, repeat("new"))
