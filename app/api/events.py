"""Progress as server-sent events; no connection is held between two of them."""

import json
from collections.abc import AsyncIterator
from uuid import UUID

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api.context import DeadlineDep, Services, ServicesDep, hold_place
from app.api.models import ErrorBody
from app.api.reading import fetch_status
from app.api.submission import PATH
from app.assessments.status import Status
from app.log import get_logger
from app.pool import DatabaseUnavailable, Deadline

POLL_SECONDS = 0.5
PING_SECONDS = 15
# A client that stopped reading must not keep its stream forever.
SEND_SECONDS_MAX = 10.0
# How long a stream may take to send its last event when the service stops.
STOP_SECONDS = 2.0
STREAM_SECONDS_MAX = 3600.0
log = get_logger("app.api.events")
router = APIRouter(tags=["assessments"])


async def _place(services: ServicesDep) -> AsyncIterator[None]:
    services.event_places.total_tokens = services.settings.http.event_streams_max
    what = "event streams are open already; poll the status instead"
    async with hold_place(services.event_places, what):
        yield


@router.get(
    PATH + "/{assessment_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        404: {"model": ErrorBody},
        422: {"model": ErrorBody},
    },
    dependencies=[Depends(_place)],
    summary="Progress as server-sent events",
)
async def get_events(
    assessment_id: UUID, services: ServicesDep, deadline: DeadlineDep
) -> EventSourceResponse:
    """Send `progress` with the counts, again whenever they change; `end` repeats the last.

    An assessment that has ended is answered with both at once. A service that stops sends
    `stopping` and closes; connect again for the rest.
    """
    status = await _poll(services, assessment_id, deadline)
    stopping = anyio.Event()
    return EventSourceResponse(
        _events(services, status, stopping),
        ping=PING_SECONDS,
        send_timeout=SEND_SECONDS_MAX,
        shutdown_event=stopping,
        shutdown_grace_period=STOP_SECONDS,
    )


async def _poll(services: Services, assessment_id: UUID, deadline: Deadline) -> Status:
    return await to_thread.run_sync(
        fetch_status, services, assessment_id, deadline, {}, limiter=services.stream_limiter
    )


async def _events(
    services: Services, status: Status, stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    sent = None
    until = Deadline.after(STREAM_SECONDS_MAX)
    while not until.expired:
        progress = _progress(status)
        if progress != sent:
            yield ServerSentEvent(progress, event="progress")
            sent = progress
        if status.ended:
            yield ServerSentEvent(progress, event="end")
            return
        if services.ending:
            yield ServerSentEvent(progress, event="stopping")
            return
        with anyio.move_on_after(POLL_SECONDS):
            await stopping.wait()
        if stopping.is_set():
            yield ServerSentEvent(progress, event="stopping")
            return
        status = await _poll_again(services, status)


async def _poll_again(services: Services, status: Status) -> Status:
    seconds = services.settings.http.request_deadline_seconds
    try:
        return await _poll(services, status.assessment_id, Deadline.after(seconds))
    except DatabaseUnavailable as error:
        # The stream outlives an outage; the next poll may succeed.
        log.warning("event stream cannot poll", reason=error.reason)
        return status


def _progress(status: Status) -> str:
    return json.dumps(
        {
            "status": status.status,
            "total_tasks": status.total_tasks,
            "done_tasks": status.done_tasks,
            "failed_tasks": status.failed_tasks,
            "missing_inputs": status.missing_inputs,
        }
    )
