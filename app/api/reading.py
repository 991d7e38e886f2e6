"""GET: an assessment's status, results and summary."""

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response

from app.api.context import DeadlineDep, Services, ServicesDep
from app.api.errors import Fault, InvalidRequestError, shorten
from app.api.models import (
    YEAR_FIRST,
    YEAR_LAST,
    AssessmentStatus,
    AssessmentSummary,
    ErrorBody,
    ResultsPage,
    SiteId,
)
from app.api.submission import PATH
from app.assessments.read_results import (
    COLUMNS,
    Form,
    ResultFilter,
    ResultKey,
    ResultPage,
    UnknownSiteError,
    read_results,
    read_summary,
)
from app.assessments.status import Status, read_status
from app.database import Work
from app.pool import Deadline
from app.risk.types import RiskType, Scenario

T = TypeVar("T")
ROWS_DEFAULT = 1_000
# Eight sites of 2,880 rows fit into one CSV file; JSON costs more to build and to read.
ROWS_MAX = {"json": 10_000, "csv": 50_000}
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
    PATH + "/{assessment_id}/results",
    response_model=ResultsPage,
    responses={
        **ERRORS,
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
    },
    summary="Result rows of an assessment",
)
def get_results(
    request: Request,
    assessment_id: UUID,
    services: ServicesDep,
    deadline: DeadlineDep,
    site_id: Annotated[SiteId | None, Query()] = None,
    scenario: Scenario | None = None,
    year: Annotated[int | None, Query(ge=YEAR_FIRST, le=YEAR_LAST)] = None,
    risk_type: RiskType | None = None,
    format: Form = "json",  # noqa: A002  # the name in the URL
    limit: Annotated[int | None, Query(ge=1, description="Rows per page")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="From `next`")] = None,
) -> Response:
    """Return rows ordered by site, scenario, year and peril, a page at a time.

    The next page is in `next` and in the Link header. CSV gives up to 50,000 rows at
    once unless a limit is set.
    """
    rows = _limit(limit, format)
    after = None if cursor is None else _decode(cursor)
    wanted = ResultFilter(site_id, scenario, year, risk_type)
    try:
        page = _read(
            services,
            deadline,
            "results",
            lambda connection: read_results(
                connection, assessment_id, wanted, after=after, limit=rows, form=format
            ),
        )
    except UnknownSiteError as error:
        rule = "no such site in this assessment; its status lists them"
        raise InvalidRequestError([Fault("query.site_id", shorten(site_id), rule)]) from error
    following = None if page.next is None else _next_path(request, page.next)
    if format == "csv":
        return _csv(assessment_id, page, following)
    return _json(assessment_id, page, following)


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


def _limit(limit: int | None, form: str) -> int:
    largest = ROWS_MAX[form]
    if limit is None:
        return ROWS_DEFAULT if form == "json" else largest
    if limit > largest:
        rule = f"at most {largest} rows a page as {form}; follow `next` for more"
        raise InvalidRequestError([Fault("query.limit", shorten(limit), rule)])
    return limit


def _decode(cursor: str) -> ResultKey:
    try:
        return ResultKey.decode(cursor)
    except ValueError as error:
        rule = "must be taken from the `next` link of a page"
        raise InvalidRequestError([Fault("query.cursor", shorten(cursor), rule)]) from error


def _next_path(request: Request, key: ResultKey) -> str:
    query = [(name, value) for name, value in request.query_params.items() if name != "cursor"]
    return f"{request.url.path}?{urlencode([*query, ('cursor', key.encode())])}"


def _link(following: str | None) -> dict[str, str]:
    return {} if following is None else {"Link": f'<{following}>; rel="next"'}


def _json(assessment_id: UUID, page: ResultPage, following: str | None) -> Response:
    # The rows are JSON already: a model would read, check and write each again.
    head = f'{{"assessment_id":"{assessment_id}","results":['.encode()
    tail = f'],"next":{json.dumps(following)}}}'.encode()
    body = b"".join((head, b",".join(page.lines), tail))
    return Response(body, media_type="application/json", headers=_link(following))


def _csv(assessment_id: UUID, page: ResultPage, following: str | None) -> Response:
    name = f'attachment; filename="assessment-{assessment_id}.csv"'
    return Response(
        b"\r\n".join([",".join(COLUMNS).encode(), *page.lines, b""]),
        media_type="text/csv",
        headers={"Content-Disposition": name, **_link(following)},
    )
