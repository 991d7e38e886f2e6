"""What can be wrong with a request, and every error answer of the api.

A fault has field, value and rule, safe to show and to log.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.assessments.submit import ReferenceDataMissingError
from app.log import get_logger
from app.pool import (
    CommitOutcomeUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    PoolSaturated,
    PoolState,
)
from app.server import error_response

SHOWN_CHARACTERS_MAX = 80
FAULTS_SHOWN_MAX = 50
RETRY_AFTER_SECONDS = 2
# What callers are told; the reason has addresses, roles and SQLSTATEs and is in the log.
OUTAGES: Mapping[type[DatabaseUnavailable], tuple[str, str]] = {
    PoolSaturated: (
        "pool_saturated",
        "every connection to the database is taken, and too many requests wait for one; "
        "nothing was changed",
    ),
    DeadlineExceeded: (
        "deadline_exceeded",
        "the database did not answer before the deadline of the request; nothing was changed",
    ),
    CommitOutcomeUnknown: (
        "commit_outcome_unknown",
        "whether the request was stored is not known; repeat it under the same "
        "Idempotency-Key, or it may be stored twice",
    ),
}
OUTAGE = ("database_unavailable", "the database cannot be used at the moment; nothing was changed")
log = get_logger("app.api")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `value` is already shortened, None when there is none to show."""

    field: str
    value: Any
    rule: str


class InvalidRequestError(Exception):
    """The request breaks the rules that its faults name."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.rule}" for fault in faults))
        self.faults = faults


class ServiceBusyError(Exception):
    """The service has as many of these in hand as it takes; the message names which."""


class AnswerCutError(Exception):
    """The answer has begun and cannot go on; its caller must see that it is not whole.

    `status` is what it counts as.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


def from_validation(errors: Iterable[Any]) -> list[Fault]:
    """Turn pydantic's error list into faults."""
    return [
        Fault(
            field=field_name(error["loc"]),
            value=None if error["type"] == "missing" else shorten(error.get("input")),
            rule=error["msg"],
        )
        for error in errors
    ]


def field_name(location: Sequence[Any]) -> str:
    """Name a field as a caller writes it: ('body', 'sites', 3, 'latitude') -> sites[3].latitude.

    The parts of a path, a query or a header keep that word in front.
    """
    parts = location[1:] if len(location) > 1 and location[0] == "body" else location
    name = ""
    for part in parts:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += ("." if name else "") + str(shorten(part))
    return name or "body"


def shorten(value: Any) -> Any:
    """Return a value that fits into an error body: small, finite, valid Unicode."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _shorten_text(value)
    if isinstance(value, int):
        return value if abs(value) < 2**53 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if abs(value) <= 1e300 else str(value)
    if isinstance(value, dict):
        return f"an object with {len(value)} fields"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)} items"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return _shorten_text(str(value))


def _shorten_text(text: str) -> str:
    cut = text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "..."
    return cut.encode("utf-8", "backslashreplace").decode("utf-8")


def unavailable_response(
    code: str, message: str, pool: PoolState | None, retry_after_seconds: int = RETRY_AFTER_SECONDS
) -> JSONResponse:
    """Build a 503 that says when to try again and, where it helps, the pool's state."""
    return error_response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        code,
        f"{message}; try again in {retry_after_seconds} s",
        headers={"Retry-After": str(retry_after_seconds)},
        pool=None if pool is None else asdict(pool),
    )


def invalid_response(
    faults: list[Fault], status: HTTPStatus = HTTPStatus.UNPROCESSABLE_ENTITY
) -> JSONResponse:
    """Build a 4xx: the first fault in the error itself, all of them in `faults`."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return error_response(
        status,
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
        code, message = OUTAGES.get(type(error), OUTAGE)
        log.warning("database unavailable", code=code, reason=error.reason)
        return unavailable_response(code, message, error.state, error.retry_after_seconds)

    @app.exception_handler(ReferenceDataMissingError)
    async def no_reference(_request: Request, _error: ReferenceDataMissingError) -> JSONResponse:
        log.error("the reference grid is empty; run the migrate service")
        message = "there are no reference data to assess with yet"
        return unavailable_response("reference_data_missing", message, None)

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
