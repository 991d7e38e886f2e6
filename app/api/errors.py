"""Every error answer of the api, one shape: {"error": {"code", "message", ...}}."""

from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.faults import FAULTS_SHOWN_MAX, Fault, InvalidRequestError, from_validation
from app.assessments.submit import ReferenceDataMissingError
from app.log import get_logger
from app.pool import (
    CommitOutcomeUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    PoolSaturated,
    PoolState,
)

RETRY_AFTER_SECONDS = 2
CODES: Mapping[type[DatabaseUnavailable], str] = {
    PoolSaturated: "pool_saturated",
    DeadlineExceeded: "deadline_exceeded",
    CommitOutcomeUnknown: "commit_outcome_unknown",
}
log = get_logger("app.api")


class ServiceBusyError(Exception):
    """The service has as many of these in hand as it takes; the message names which."""


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    **details: Any,
) -> JSONResponse:
    """Build an error answer; details that are None are left out."""
    body = {"code": code, "message": message}
    body |= {name: value for name, value in details.items() if value is not None}
    return JSONResponse({"error": body}, status_code=status, headers=dict(headers or {}))


def unavailable_response(
    code: str, message: str, pool: PoolState | None, retry_after_seconds: int = RETRY_AFTER_SECONDS
) -> JSONResponse:
    """Build a 503 with Retry-After and, where it tells something, the pool's state."""
    return error_response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        code,
        message,
        headers={"Retry-After": str(retry_after_seconds)},
        pool=None if pool is None else asdict(pool),
    )


def invalid_response(faults: list[Fault]) -> JSONResponse:
    """Build a 422: the first fault in the error itself, all of them in `faults`."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return error_response(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_request",
        f"{first.field}: {first.rule}{more}",
        field=first.field,
        value=first.value,
        rule=first.rule,
        faults=[asdict(fault) for fault in faults[:FAULTS_SHOWN_MAX]],
    )


def register_handlers(app: FastAPI) -> None:
    """Map every expected exception to its answer."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid_response(from_validation(error.errors()))

    @app.exception_handler(InvalidRequestError)
    async def invalid(_request: Request, error: InvalidRequestError) -> JSONResponse:
        return invalid_response(list(error.faults))

    @app.exception_handler(DatabaseUnavailable)
    async def unavailable(_request: Request, error: DatabaseUnavailable) -> JSONResponse:
        code = CODES.get(type(error), "database_unavailable")
        log.warning("database unavailable", code=code, reason=error.reason)
        return unavailable_response(code, error.reason, error.state, error.retry_after_seconds)

    @app.exception_handler(ReferenceDataMissingError)
    async def no_reference(_request: Request, _error: ReferenceDataMissingError) -> JSONResponse:
        return unavailable_response(
            "reference_data_missing", "the reference grid is empty; run the migrate service", None
        )

    @app.exception_handler(ServiceBusyError)
    async def busy(_request: Request, error: ServiceBusyError) -> JSONResponse:
        return unavailable_response("busy", str(error), None)

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        return error_response(
            error.status_code,
            phrase.lower().replace(" ", "_").replace("-", "_"),
            error.detail or phrase,
            headers=error.headers,
        )
