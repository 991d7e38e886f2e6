"""What every request is given: an id, a deadline, admission, and what endpoints work with."""

import contextlib
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, cast
from urllib.parse import parse_qsl

import anyio
import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import (
    AnswerCutError,
    Fault,
    ServiceBusyError,
    invalid_response,
    shorten,
    unavailable_response,
)
from app.api.sharing import SharedMetrics
from app.database import Database, open_or_warn
from app.hint import HintSender
from app.log import get_logger
from app.metrics import HttpMetrics, LastMinute
from app.pool import Deadline
from app.server import error_response
from app.settings import ApiSettings, Live

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
SINGLE_HEADERS = ("Host", "Content-Type", "Idempotency-Key")
STREAM_THREADS = 4
# The client left first.
STATUS_LEFT = 499
log = get_logger("app.api.access")


class RequestContext:
    """The outermost layer: gives an id and a deadline, counts and logs the answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        deadline_seconds: float,
        metrics: HttpMetrics,
        last_minute: LastMinute,
    ) -> None:
        self._app = app
        self._deadline_seconds = deadline_seconds
        self._metrics = metrics
        self._last_minute = last_minute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["deadline"] = Deadline.after(self._deadline_seconds)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(send, request_id)
        try:
            if faults := list(_ambiguities(scope)):
                response = invalid_response(faults, HTTPStatus.BAD_REQUEST)
                await response(scope, receive, answer.send)
            else:
                await self._answer(scope, receive, answer)
        finally:
            self._account(scope, answer)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except AnswerCutError as cut:
            # The server closes a connection whose answer has no end.
            log.warning("answer cut", path=scope["path"], reason=str(cut))
            answer.status = cut.status
        except Exception:
            log.exception("request failed", method=scope["method"], path=scope["path"])
            if answer.status is not None:
                # The client must see a cut answer, not one that looks complete.
                raise
            message = "an unexpected error; the log has it under this request id"
            response = error_response(500, "internal", message, request_id=answer.request_id)
            await response(scope, receive, answer.send)

    def _account(self, scope: Scope, answer: "_Answer") -> None:
        seconds = time.monotonic() - answer.started
        route = getattr(scope.get("route"), "path", "unmatched")
        status = answer.status or STATUS_LEFT
        self._metrics.observe(scope["method"], route, status, seconds)
        if _counted(scope["path"]):
            # How long a caller takes over a long answer says nothing of the service.
            self._last_minute.observe(status, answer.waited or seconds)
        level = "info" if _counted(scope["path"]) or status >= 400 else "debug"
        getattr(log, level)(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            seconds=round(seconds, 6),
            client=(scope.get("client") or ("",))[0],
        )


class Admission:
    """At most `admitted_max` api requests are in hand at once; the next gets 503 with Retry-After.

    An endless queue for the thread pool would answer no one in time. It is behind the layer that
    reads bodies: who sends one slowly, or never whole, must not keep others out.
    """

    def __init__(self, app: ASGIApp, *, admitted_max: int) -> None:
        self._app = app
        self._admitted_max = admitted_max
        self._admitted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or not _counted(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._admitted >= self._admitted_max:
            message = f"{self._admitted} requests are in hand already"
            await unavailable_response("busy", message, None)(scope, receive, send)
            return
        self._admitted += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._admitted -= 1


class _Answer:
    """What has been sent; adds the request id to the headers on the way."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.started = time.monotonic()
        self.waited: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.waited = time.monotonic() - self.started
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        await self._send(message)


def _counted(path: str) -> bool:
    """Return True if a path uses the thread pool; event streams have a bound of their own."""
    return path.startswith("/api/") and not path.endswith("/events")


def _ambiguities(scope: Scope) -> Iterator[Fault]:
    """Find what a proxy may have taken in one way, and the application takes in another."""
    headers = Headers(scope=scope)
    for name in SINGLE_HEADERS:
        values = headers.getlist(name)
        if len(values) > 1:
            yield Fault(f"header.{name}", shorten(values), "must be sent once")
    if "host" not in headers and scope["http_version"] == "1.1":
        yield Fault("header.Host", None, "must be sent")
    codings = ", ".join(headers.getlist("transfer-encoding"))
    if codings and codings.strip().lower() != "chunked":
        yield Fault("header.Transfer-Encoding", shorten(codings), "must be chunked alone")
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name, count in Counter(name for name, _value in query).items():
        if count > 1:
            yield Fault(f"query.{shorten(name)}", None, f"given {count} times; give it once")


def _request_id(scope: Scope) -> str:
    given = ",".join(Headers(scope=scope).getlist("x-request-id"))
    return given if SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


@dataclass(slots=True)
class Services:
    """One per application, made by `create_app`; the limiters need no running loop."""

    live: Live[ApiSettings]
    database: Database
    registry: CollectorRegistry
    hints: HintSender
    standby: Database | None = None
    opening: Callable[[Database], None] = open_or_warn
    shared: SharedMetrics | None = None
    # Set when this process makes way for a new one: streams end, their clients come back.
    ending: bool = False
    last_minute: LastMinute = field(default_factory=LastMinute)
    # Their own few threads: 50 event streams must not take threads from requests. Four that read
    # results keep one core busy.
    stream_limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(STREAM_THREADS)
    )
    # Of answers that last as long as their callers let them; a request holds one of either.
    event_places: anyio.CapacityLimiter = field(init=False)
    result_places: anyio.CapacityLimiter = field(init=False)
    # One for each thread, so that who has a place finds a thread free.
    thread_places: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Make the places; those for event streams follow their setting later on."""
        self.event_places = anyio.CapacityLimiter(self.settings.http.event_streams_max)
        self.result_places = anyio.CapacityLimiter(self.settings.http.threads)
        self.thread_places = anyio.CapacityLimiter(self.settings.http.threads)

    @property
    def settings(self) -> ApiSettings:
        """Return the running settings."""
        return self.live.current


@contextlib.asynccontextmanager
async def hold_place(
    places: anyio.CapacityLimiter,
    what: str,
    *,
    deadline: Deadline | None = None,
    waiting_max: float | None = None,
) -> AsyncIterator[None]:
    """Hold a place for an answer within the block; raise ServiceBusyError where there is none.

    With a deadline it is waited for, by `waiting_max` at most, or as many as there are places.
    """
    if waiting_max is None:
        waiting_max = places.total_tokens
    try:
        try:
            places.acquire_nowait()
        except anyio.WouldBlock:
            if deadline is None or places.statistics().tasks_waiting >= waiting_max:
                raise
            with anyio.fail_after(deadline.remaining()):
                await places.acquire()
    except (anyio.WouldBlock, TimeoutError):
        raise ServiceBusyError(f"{places.total_tokens} {what}") from None
    try:
        yield
    finally:
        places.release()


async def get_services(request: Request) -> Services:
    """Return the application's services."""
    return cast(Services, request.app.state.services)


async def get_deadline(request: Request) -> Deadline:
    """Return the moment by which this request must be answered."""
    return cast(Deadline, request.state.deadline)


ServicesDep = Annotated[Services, Depends(get_services)]
DeadlineDep = Annotated[Deadline, Depends(get_deadline)]


class ThreadRoute(APIRoute):
    """A route whose endpoint runs in a thread, for which a request waits until its deadline.

    The threads' own queue knows none. The place is free again before the answer is sent.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler; a dependency would take 80 us of each request instead of 8."""
        handle = super().get_route_handler()

        async def handle_in_place(request: Request) -> Response:
            services, deadline = await get_services(request), await get_deadline(request)
            what = "requests are being answered already"
            # Admission bounds those that wait.
            async with hold_place(
                services.thread_places, what, deadline=deadline, waiting_max=math.inf
            ):
                return await handle(request)

        return handle_in_place
