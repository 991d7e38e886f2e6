"""GET: an assessment's status and summary."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse

from app.api.context import DeadlineDep, Services, ServicesDep
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
router = APIRouter(tags=["assessments"])
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


def read(
    services: Services,
    work: Callable[[Work], T],
    deadline: Deadline,
    name: str,
    headers: dict[str, str],
) -> T:
    """Return what the primary has, or, while it does not serve, what a standby has.

    The answer of a standby may be behind; `headers` then says so. None of a standby is no answer:
    what it does not have the primary may have.

    Raises DatabaseUnavailable.
    """
    if services.standby is None:
        return services.database.run(work, deadline=deadline, name=name, read_only=True)
    early = deadline.sooner(deadline.remaining() * PRIMARY_SHARE)
    try:
        return services.database.run(work, deadline=early, name=name, read_only=True)
    except PoolSaturated:
        raise
    except DatabaseUnavailable:
        found = services.standby.run(work, deadline=deadline, name=name, read_only=True)
        if found is None:
            raise
        headers |= FROM_STANDBY
        return found
