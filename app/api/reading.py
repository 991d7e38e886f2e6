"""GET: an assessment's status and summary."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse

from app.api.context import DeadlineDep, Services, ServicesDep, ThreadRoute
from app.api.models import AssessmentStatus, AssessmentSummary, ErrorBody
from app.api.submission import PATH
from app.assessments.status import Status, read_status
from app.assessments.summary import read_summary
from app.database import Work
from app.pool import DatabaseUnavailable, Deadline, PoolSaturated

T = TypeVar("T")
# Of the time for an answer, before a standby is asked.
PRIMARY_SHARE = 0.5
# RFC 9211: the answer was stored, and the origin was not asked.
FROM_STANDBY = {"Cache-Status": "standby; hit"}
# How far a standby is; one that has become the primary has everything.
_REPLAYED = """
CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
"""
REPLAYED = f"SELECT ({_REPLAYED})::text"
IS_BEHIND = f"SELECT ({_REPLAYED}) < %(lsn)s::pg_lsn"  # constant text only
router = APIRouter(route_class=ThreadRoute, tags=["assessments"])
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (404, 422)}


@router.get(
    PATH + "/{assessment_id}",
    response_model=AssessmentStatus,
    responses=ERRORS,
    summary="Progress of an assessment",
)
def get_status(assessment_id: UUID, services: ServicesDep, deadline: DeadlineDep) -> JSONResponse:
    """Return how far the assessment is, by site, and the first failed tasks."""
    headers: dict[str, str] = {}
    status = fetch_status(services, assessment_id, deadline, headers)
    body = AssessmentStatus.model_validate(status, from_attributes=True)
    return JSONResponse(body.model_dump(mode="json"), headers=headers)


@router.get(
    PATH + "/{assessment_id}/summary",
    response_model=AssessmentSummary,
    responses=ERRORS,
    summary="Averages, highest risks, AAL by year",
)
def get_summary(assessment_id: UUID, services: ServicesDep, deadline: DeadlineDep) -> JSONResponse:
    """Return what the assessment found so far."""
    headers: dict[str, str] = {}
    found = _read(
        services,
        deadline,
        "summary",
        lambda connection: read_summary(connection, assessment_id),
        headers,
    )
    return JSONResponse({"assessment_id": str(assessment_id), **found}, headers=headers)


def fetch_status(
    services: Services, assessment_id: UUID, deadline: Deadline, headers: dict[str, str]
) -> Status:
    """Read an assessment's status; raise 404 when there is no such assessment."""
    return _read(
        services,
        deadline,
        "status",
        lambda connection: read_status(connection, assessment_id),
        headers,
    )


def _read(
    services: Services,
    deadline: Deadline,
    name: str,
    work: Callable[[Work], T | None],
    headers: dict[str, str],
) -> T:
    found = read(services, work, deadline, name, headers)
    if found is None:
        raise HTTPException(404, "no such assessment")
    return found


@dataclass(slots=True)
class Replayed:
    """How far in the log the standby was from which an answer was read last; "" of none."""

    lsn: str = ""


def read(
    services: Services,
    work: Callable[[Work], T],
    deadline: Deadline,
    name: str,
    headers: dict[str, str] | None,
    replayed: Replayed | None = None,
) -> T:
    """Return what the primary has, or, while it does not serve, what a standby has.

    An answer of several reads has them all given one `replayed`: no standby is asked that is behind
    the one before.

    The answer of a standby may be behind; `headers` then says so. Without them no standby is asked.
    None of a standby is no answer: what it does not have the primary may have.

    Raises DatabaseUnavailable.
    """
    if services.standby is None or headers is None:
        return services.database.run(work, deadline=deadline, name=name, read_only=True)
    early = deadline.sooner(deadline.remaining() * PRIMARY_SHARE)
    try:
        return services.database.run(work, deadline=early, name=name, read_only=True)
    except PoolSaturated:
        raise
    except DatabaseUnavailable:
        found = services.standby.run(
            partial(_in_one_place, work, replayed), deadline=deadline, name=name, read_only=True
        )
        if found is None:
            raise
        headers |= FROM_STANDBY
        return found


def _in_one_place(
    work: Callable[[Work], T], replayed: Replayed | None, connection: Work
) -> T | None:
    """Do all of the work at one standby: another, in the next transaction, may be behind it."""
    with connection.transaction():
        if replayed is None:
            return work(connection)
        if replayed.lsn:
            ((is_behind,),) = connection.execute(IS_BEHIND, {"lsn": replayed.lsn})
            if is_behind:
                return None
        found = work(connection)
        # Afterwards: what was read is not from later than this.
        ((replayed.lsn,),) = connection.execute(REPLAYED)
        return found
