"""GET: an assessment's result rows, read and sent a piece at a time.

An answer holds one piece, whatever its length, and neither a thread nor a connection while its
caller takes it. Each piece is read within the request's deadline, counted anew, by one statement of
its own: what an assessment that has ended found is complete and never changes; of one that still
runs, rows that are stored behind the place that was reached are not in the answer.

A piece that cannot be read in time, or is not taken in time, cuts the connection in the middle of
the answer: its last chunk, or the length that was announced, is missing.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Annotated, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.context import STATUS_LEFT, DeadlineDep, Services, ServicesDep, hold_place
from app.api.errors import AnswerCutError, Fault, InvalidRequestError, shorten
from app.api.models import YEAR_FIRST, YEAR_LAST, ResultsPage, SiteId
from app.api.reading import ERRORS, Replayed
from app.api.reading import read as read_from
from app.api.submission import PATH
from app.assessments.read_results import (
    COLUMNS,
    Form,
    ResultFilter,
    ResultKey,
    ResultPiece,
    Stretch,
    UnknownSiteError,
    begin_results,
    continue_results,
)
from app.database import Work
from app.pool import DatabaseUnavailable, Deadline
from app.risk.types import RiskType, Scenario

ROWS_DEFAULT = 1_000
# A page of JSON is parsed whole by most callers; CSV is not, and has no page unless asked for.
ROWS_MAX = {"json": 10_000, "csv": 50_000}
# How long a caller may take for a piece.
TAKE_SECONDS = 30.0
# What the server hands to the connection at once; it stops for one that has as much to send.
SLICE_BYTES = 64 * 1024
_CSV_HEAD = ",".join(COLUMNS).encode() + b"\r\n"
T = TypeVar("T")
router = APIRouter(tags=["assessments"])


async def _place(services: ServicesDep, deadline: DeadlineDep) -> AsyncIterator[None]:
    what = "answers with results are on their way already"
    async with hold_place(services.result_places, what, deadline=deadline):
        yield


@router.get(
    PATH + "/{assessment_id}/results",
    response_model=ResultsPage,
    responses={
        **ERRORS,
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
    },
    dependencies=[Depends(_place)],
    summary="Result rows of an assessment",
)
async def get_results(
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
    """Return rows ordered by site, scenario, year and peril.

    JSON gives a page of 1,000 rows, or of `limit` up to 10,000; CSV gives all rows, or a page of
    `limit` up to 50,000. The next page is in `next` and in the Link header. The rows of an
    assessment that has ended never change; those of one that still runs are the ones stored so
    far, of which later ones may be missing in between, and its pages may be shorter than `limit`.

    A long answer is sent as it is read. One that ends without its last chunk was cut: ask again.

    In CSV a `site_id` is in quotes, and one that begins with `=`, `+`, `-`, `@` (or the full-width
    form of one) has an apostrophe in front, so that no spreadsheet takes it for a formula. JSON has
    it as it is.
    """
    rows = _limit(limit, format)
    after = None if cursor is None else _decode(cursor)
    wanted = ResultFilter(site_id, scenario, year, risk_type)
    begin = partial(
        begin_results,
        assessment_id=assessment_id,
        wanted=wanted,
        after=after,
        limit=rows,
        form=format,
    )
    headers: dict[str, str] = {}
    replayed = Replayed()
    try:
        first = await _read(services, begin, deadline, headers, replayed)
    except UnknownSiteError as error:
        rule = "no such site in this assessment; its status lists them"
        raise InvalidRequestError([Fault("query.site_id", shorten(site_id), rule)]) from error
    if first is None:
        raise HTTPException(404, "no such assessment")
    # The headers are sent: what began at the primary has to go on there, or be cut. A standby may
    # be behind, and a piece of its own would look like the last.
    later = {**headers} if headers else None

    async def read(rest: Stretch) -> ResultPiece:
        again = Deadline.after(services.settings.http.request_deadline_seconds)
        work = partial(continue_results, rest=rest)
        return await _read(services, work, again, later, replayed)

    following = None if first.next is None else _next_path(request, first.next)
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'

    if format == "csv":
        name = f'attachment; filename="assessment-{assessment_id}.csv"'
        headers["Content-Disposition"] = name
        return PiecewiseResponse(_CSV_HEAD, first, read, b"", "text/csv", headers)
    # The rows are JSON already: a model would read, check and write each again.
    head = f'{{"assessment_id":"{assessment_id}","results":['.encode()
    tail = f'],"next":{json.dumps(following)}}}'.encode()
    return PiecewiseResponse(head, first, read, tail, "application/json", headers)


class PiecewiseResponse(Response):
    """A head, pieces and a tail; each piece is read when the caller has taken the one before."""

    def __init__(
        self,
        head: bytes,
        first: ResultPiece,
        read: Callable[[Stretch], Awaitable[ResultPiece]],
        tail: bytes,
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        # Not the base's own, which takes the whole body.
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        if first.rest is None:
            length = len(head) + len(first.text) + len(tail)
            headers = {**headers, "Content-Length": str(length)}
        self.init_headers(headers)
        self._head, self._tail = head, tail
        self._read = read
        self._pieces = [first]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the rows end, the caller leaves, or a piece is late."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await _send(send, self._head)
        request = Request(scope, receive)
        try:
            # A second name for a piece would keep it until the next one is there.
            while rest := await self._send_piece(send, request, self._pieces.pop()):
                self._pieces.append(await self._read(rest))
        except DatabaseUnavailable as error:
            raise AnswerCutError(error.reason, HTTPStatus.SERVICE_UNAVAILABLE) from error
        except TimeoutError as error:
            late = f"a piece was not taken within {TAKE_SECONDS:g} s"
            raise AnswerCutError(late, STATUS_LEFT) from error
        await _send(send, self._tail, more=False)

    async def _send_piece(self, send: Send, request: Request, piece: ResultPiece) -> Stretch | None:
        with anyio.fail_after(TAKE_SECONDS):
            for start in range(0, len(piece.text), SLICE_BYTES):
                await _send(send, piece.text[start : start + SLICE_BYTES])
            # Waits until the caller has taken all but what the connection holds of it.
            await _send(send, b"")
        # The server takes what is sent to one who has left, and says nothing.
        if await request.is_disconnected():
            raise AnswerCutError("the caller left", STATUS_LEFT)
        return piece.rest


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _read(
    services: Services,
    work: Callable[[Work], T],
    deadline: Deadline,
    headers: dict[str, str] | None,
    replayed: Replayed,
) -> T:
    run = partial(read_from, services, work, deadline, "results", headers, replayed)
    return await to_thread.run_sync(run, limiter=services.stream_limiter)


def _limit(limit: int | None, form: str) -> int | None:
    largest = ROWS_MAX[form]
    if limit is None:
        return ROWS_DEFAULT if form == "json" else None
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
