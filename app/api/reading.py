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
from app.pool import Deadline

T = TypeVar("T")
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
    status = fetch_status(services, assessment_id, deadline)
    body = AssessmentStatus.model_validate(status, from_attributes=True)
    return JSONResponse(body.model_dump(mode="json"))


@router.get(
    PATH + "/{assessment_id}/summary",
    response_model=AssessmentSummary,
    responses=ERRORS,
    summary="Averages, highest risks, AAL by year",
)
def get_summary(assessment_id: UUID, services: ServicesDep, deadline: DeadlineDep) -> JSONResponse:
    """Return what the assessment found so far."""
    found = _read(
        services, deadline, "summary", lambda connection: read_summary(connection, assessment_id)
    )
    return JSONResponse({"assessment_id": str(assessment_id), **found})


def fetch_status(services: Services, assessment_id: UUID, deadline: Deadline) -> Status:
    """Read an assessment's status; raise 404 when there is no such assessment."""
    return _read(
        services, deadline, "status", lambda connection: read_status(connection, assessment_id)
    )


def _read(services: Services, deadline: Deadline, name: str, work: Callable[[Work], T | None]) -> T:
    found = services.database.run(work, deadline=deadline, name=name, read_only=True)
    if found is None:
        raise HTTPException(404, "no such assessment")
    return found
