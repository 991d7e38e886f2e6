"""Accepting an assessment: its row, its sites and its tasks, in one transaction."""

from dataclasses import dataclass
from uuid import UUID

from app.database import Work
from app.pool import CONFIRM
from app.risk.types import Scenario


@dataclass(frozen=True, slots=True)
class Site:
    """A place to assess, in degrees (WGS 84)."""

    site_id: str
    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request. `request_hash` is the SHA-256 of its canonical form."""

    assessment_id: UUID
    idempotency_key: str | None
    request_hash: bytes
    sites: tuple[Site, ...]
    asset_value: float
    insurance_coverage_rate: float
    scenarios: tuple[Scenario, ...]
    year_from: int
    year_to: int

    @property
    def total_tasks(self) -> int:
        """One task per site, scenario and year."""
        return len(self.sites) * len(self.scenarios) * (self.year_to - self.year_from + 1)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An assessment as stored, be it new or found under the same key."""

    assessment_id: UUID
    status: str
    total_tasks: int
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Area:
    """The extent of the reference grid, in degrees, borders included."""

    min_latitude: float
    max_latitude: float
    min_longitude: float
    max_longitude: float


class SitesOutsideAreaError(Exception):
    """Some sites have no cell in the reference grid."""

    def __init__(self, indexes: list[int], area: Area) -> None:
        super().__init__(f"sites {indexes} lie outside {area}")
        self.indexes = indexes
        self.area = area


class ReferenceDataMissingError(Exception):
    """The reference grid is empty: the migrate service has not filled it yet."""


LOCATE = """
SELECT grid.min_latitude, grid.max_latitude, grid.min_longitude, grid.max_longitude,
       reference.cell_at(site.latitude, site.longitude)
FROM reference.grid AS grid
CROSS JOIN unnest(%(latitudes)s::double precision[], %(longitudes)s::double precision[])
     WITH ORDINALITY AS site (latitude, longitude, position)
ORDER BY site.position
"""

# Waits for a concurrent transaction that holds the same key, then does nothing.
INSERT_ASSESSMENT = """
INSERT INTO risk.assessments (
    assessment_id, idempotency_key, request_hash, asset_value, insurance_coverage_rate,
    scenarios, year_from, year_to, total_tasks, status)
VALUES (
    %(assessment_id)s, %(idempotency_key)s, %(request_hash)s, %(asset_value)s,
    %(insurance_coverage_rate)s, %(scenarios)s::text[]::risk.scenario[], %(year_from)s,
    %(year_to)s, %(total_tasks)s, 'queued')
ON CONFLICT (idempotency_key) DO NOTHING
"""

INSERT_SITES = """
INSERT INTO risk.assessment_sites (
    assessment_id, site_no, site_id, latitude, longitude, cell_id)
SELECT %(assessment_id)s, site.position - 1, site.site_id, site.latitude, site.longitude,
       site.cell_id
FROM unnest(%(site_ids)s::text[], %(latitudes)s::double precision[],
            %(longitudes)s::double precision[], %(cell_ids)s::integer[])
     WITH ORDINALITY AS site (site_id, latitude, longitude, cell_id, position)
"""

INSERT_TASKS = """
INSERT INTO risk.tasks (assessment_id, site_no, scenario, year)
SELECT %(assessment_id)s, site_no, scenario, year
FROM generate_series(0, %(site_count)s - 1) AS site_no
CROSS JOIN unnest(%(scenarios)s::text[]::risk.scenario[]) AS scenario
CROSS JOIN generate_series(%(year_from)s::integer, %(year_to)s::integer) AS year
"""

FIND_BY_KEY = """
SELECT assessment_id, status, total_tasks, request_hash
FROM risk.assessments
WHERE idempotency_key = %(idempotency_key)s
"""

FIND_BY_ID = """
SELECT assessment_id, status, total_tasks, request_hash
FROM risk.assessments
WHERE assessment_id = %(assessment_id)s
"""


def submit(connection: Work, submission: Submission) -> Accepted:
    """Store the submission, or return what is stored under its idempotency key.

    Raises SitesOutsideAreaError or ReferenceDataMissingError where nothing is stored. The caller
    compares `request_hash` to distinguish a repeat from another request under the same key.
    """
    try:
        cells = _locate(connection, submission.sites)
    except (SitesOutsideAreaError, ReferenceDataMissingError):
        # A repeat gets what it got the first time, whatever the grid is by now.
        if (accepted := _stored(connection, submission)) is None:
            raise
        return accepted
    parameters = _parameters(submission, cells)
    if connection.execute(INSERT_ASSESSMENT, parameters).rowcount == 0:
        if (accepted := _stored(connection, submission)) is None:
            raise RuntimeError("an idempotency key conflicted with a row that is not there")
        return accepted
    connection.execute(INSERT_SITES, parameters)
    connection.execute(INSERT_TASKS, parameters)
    return Accepted(
        submission.assessment_id, "queued", submission.total_tasks, submission.request_hash
    )


def find(connection: Work, submission: Submission) -> Accepted | None:
    """Return what is stored under the submission's key (or its own id without a key)."""
    query = FIND_BY_ID if submission.idempotency_key is None else FIND_BY_KEY
    row = connection.execute(
        query,
        {
            "assessment_id": submission.assessment_id,
            "idempotency_key": submission.idempotency_key,
        },
    ).fetchone()
    return None if row is None else Accepted(*row)


def _stored(connection: Work, submission: Submission) -> Accepted | None:
    accepted = find(connection, submission)
    if accepted is not None:
        # Whoever stored it may have got no answer because no standby had it.
        connection.execute(CONFIRM)
    return accepted


def _locate(connection: Work, sites: tuple[Site, ...]) -> list[int]:
    rows = connection.execute(LOCATE, _coordinates(sites)).fetchall()
    if not rows:
        raise ReferenceDataMissingError
    outside = [index for index, row in enumerate(rows) if row[4] is None]
    if outside:
        raise SitesOutsideAreaError(outside, Area(*rows[0][:4]))
    return [row[4] for row in rows]


def _coordinates(sites: tuple[Site, ...]) -> dict[str, object]:
    return {
        "latitudes": [site.latitude for site in sites],
        "longitudes": [site.longitude for site in sites],
    }


def _parameters(submission: Submission, cells: list[int]) -> dict[str, object]:
    return {
        "assessment_id": submission.assessment_id,
        "idempotency_key": submission.idempotency_key,
        "request_hash": submission.request_hash,
        "asset_value": submission.asset_value,
        "insurance_coverage_rate": submission.insurance_coverage_rate,
        "scenarios": [scenario.value for scenario in submission.scenarios],
        "year_from": submission.year_from,
        "year_to": submission.year_to,
        "total_tasks": submission.total_tasks,
        "site_ids": [site.site_id for site in submission.sites],
        "site_count": len(submission.sites),
        "cell_ids": cells,
        **_coordinates(submission.sites),
    }
