"""POST: check what the shape cannot say, then store the assessment."""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import structlog
from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse

from app.api.body import StrictJsonRoute
from app.api.context import DeadlineDep, ServicesDep
from app.api.errors import Fault, InvalidRequestError, shorten
from app.api.models import AssessmentAccepted, AssessmentRequest, ErrorBody
from app.assessments.submit import Accepted, Site, SitesOutsideAreaError, Submission, find, submit
from app.log import get_logger
from app.risk.types import Scenario

PATH = "/api/v1/site-assessments"
log = get_logger("app.api.submission")
router = APIRouter(route_class=StrictJsonRoute, tags=["assessments"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Repeat a request under the same key and get the same assessment",
    ),
]


@router.post(
    PATH,
    status_code=202,
    response_model=AssessmentAccepted,
    responses={code: {"model": ErrorBody} for code in (415, 422)},
    summary="Submit an assessment",
)
def submit_assessment(
    request: AssessmentRequest,
    services: ServicesDep,
    deadline: DeadlineDep,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Store the assessment and its tasks; a worker takes it from there."""
    _check(request)
    submission = _submission(request, idempotency_key)
    try:
        accepted = services.database.run(
            lambda connection: submit(connection, submission),
            deadline=deadline,
            name="submit",
            lookup=lambda connection: find(connection, submission),
        )
    except SitesOutsideAreaError as error:
        raise InvalidRequestError(list(_outside(request, error))) from error
    if accepted.request_hash != submission.request_hash:
        raise InvalidRequestError([_other_request(idempotency_key)])
    if accepted.assessment_id == submission.assessment_id:
        services.hints.send()
    return _answer(accepted, submission)


def _check(request: AssessmentRequest) -> None:
    faults = [*_site_faults(request), *_span_faults(request)]
    if faults:
        raise InvalidRequestError(faults)


def _site_faults(request: AssessmentRequest) -> Iterator[Fault]:
    counts = Counter(site.site_id for site in request.sites)
    for site_id, count in counts.items():
        if count > 1:
            yield Fault(
                "sites",
                shorten(site_id),
                f"site_id must be unique in a request; used {count} times",
            )


def _span_faults(request: AssessmentRequest) -> Iterator[Fault]:
    for scenario, count in Counter(request.scenarios).items():
        if count > 1:
            yield Fault("scenarios", scenario.value, f"named {count} times; name it once")
    if request.years.from_ > request.years.to:
        yield Fault("years.from", request.years.from_, f"must not be after to={request.years.to}")


def _outside(request: AssessmentRequest, error: SitesOutsideAreaError) -> Iterator[Fault]:
    area = error.area
    rule = (
        f"must lie in the assessed area: latitude {area.min_latitude:g} to "
        f"{area.max_latitude:g}, longitude {area.min_longitude:g} to {area.max_longitude:g}"
    )
    for index in error.indexes:
        site = request.sites[index]
        good_latitude = area.min_latitude <= site.latitude <= area.max_latitude
        good_longitude = area.min_longitude <= site.longitude <= area.max_longitude
        if not good_latitude:
            yield Fault(f"sites[{index}].latitude", site.latitude, rule)
        if not good_longitude:
            yield Fault(f"sites[{index}].longitude", site.longitude, rule)
        if good_latitude and good_longitude:
            yield Fault(
                f"sites[{index}]",
                f"{site.latitude}, {site.longitude}",
                "the reference data have no cell here; choose a place nearer to their grid",
            )


def _submission(request: AssessmentRequest, idempotency_key: str | None) -> Submission:
    # The order of scenarios says nothing, so it makes no other request.
    scenarios = tuple(scenario for scenario in Scenario if scenario in request.scenarios)
    canonical = request.model_dump(mode="json", by_alias=True) | {"scenarios": scenarios}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    return Submission(
        assessment_id=uuid.uuid4(),
        idempotency_key=idempotency_key,
        request_hash=hashlib.sha256(text.encode()).digest(),
        sites=tuple(Site(s.site_id, s.latitude, s.longitude) for s in request.sites),
        asset_value=request.asset_value,
        insurance_coverage_rate=request.insurance_coverage_rate,
        scenarios=scenarios,
        year_from=request.years.from_,
        year_to=request.years.to,
    )


def _other_request(idempotency_key: str | None) -> Fault:
    return Fault(
        "header.Idempotency-Key",
        shorten(idempotency_key),
        "was used for another request; use a new key, or send the same body again",
    )


def _answer(accepted: Accepted, submission: Submission) -> JSONResponse:
    structlog.contextvars.bind_contextvars(assessment_id=str(accepted.assessment_id))
    log.info(
        "assessment accepted",
        tasks=accepted.total_tasks,
        sites=len(submission.sites),
        replayed=accepted.assessment_id != submission.assessment_id,
    )
    body = AssessmentAccepted(
        assessment_id=accepted.assessment_id,
        status=accepted.status,
        total_tasks=accepted.total_tasks,
    )
    return JSONResponse(
        body.model_dump(mode="json"),
        status_code=202,
        headers={"Location": f"{PATH}/{accepted.assessment_id}"},
    )
