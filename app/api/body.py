"""A request's body: read whole before anything parses it, then parsed as strict JSON.

Too large, too slow or too much at once is refused. JSON is as the standard has it (no NaN token, no
bad Unicode, bounded depth and number length, no name twice in an object), and no more of it than a
request can need: every wrong field becomes a fault, so a megabyte of them would keep the event loop
busy for seconds.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import ThreadRoute
from app.api.errors import Fault, InvalidRequestError, shorten, unavailable_response
from app.server import error_response

# A client that is still sending when the answer comes loses it to a connection reset.
# So much more is read and thrown away first, but no longer than that.
DRAIN_BYTES_MAX = 32 * 1024 * 1024
DRAIN_SECONDS_MAX = 2.0
# Of one process, for the bodies of all requests that are not answered. Measured: without it 300
# half-sent bodies of 1 MB took 350 MB. Small ones are read even then: whoever sends much must not
# keep others out.
HELD_BYTES_MAX = 16 * 1024 * 1024
SMALL_BYTES = 8 * 1024
FIELDS_MAX = 16


class _RefusedError(Exception):
    """The body is not taken, `response` says why; `more` of it is still to come."""

    def __init__(self, response: Response, *, more: bool) -> None:
        super().__init__()
        self.response = response
        self.more = more


class _DisconnectedError(Exception):
    """The client left before its body was complete."""


class BodyLimit:
    """Answers 413 to a body above `max_bytes`, chunked or not, and 408 to one that stalls.

    Bodies in hand have HELD_BYTES_MAX together; beyond it, 503 to all but small ones.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held_max = max(HELD_BYTES_MAX, max_bytes)
        self._timeout_seconds = timeout_seconds
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        with self._holding() as hold:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    body = await self._read(Headers(scope=scope), receive, hold)
            except _RefusedError as error:
                response, more = error.response, error.more
            except TimeoutError:
                response, more = self._too_slow(), False
            except _DisconnectedError:
                return
            else:
                await self._app(scope, _Replay(body, receive), send)
                return
        if more:
            await _drain(receive)
        await response(scope, receive, send)

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Count what is held until the end of the block."""
        own = 0

        def hold(size: int) -> None:
            nonlocal own
            own += size
            self._held_bytes += size

        try:
            yield hold
        finally:
            self._held_bytes -= own

    async def _read(self, headers: Headers, receive: Receive, hold: Callable[[int], None]) -> bytes:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:19]) > self._max_bytes:
            raise _RefusedError(self._too_large(), more=True)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _DisconnectedError
            body += message.get("body", b"")
            hold(len(message.get("body", b"")))
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                raise _RefusedError(self._too_large(), more=more)
            if len(body) > SMALL_BYTES and self._held_bytes > self._held_max:
                raise _RefusedError(self._too_many(), more=more)
        return bytes(body)

    def _too_large(self) -> Response:
        return error_response(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "body_too_large",
            f"the body exceeds {self._max_bytes} bytes; send fewer sites per request",
            headers={"Connection": "close"},
            rule=f"at most {self._max_bytes} bytes",
        )

    def _too_many(self) -> Response:
        message = f"request bodies of {self._held_max} bytes are in hand already"
        return unavailable_response("busy", message, None)

    def _too_slow(self) -> Response:
        return error_response(
            HTTPStatus.REQUEST_TIMEOUT,
            "body_too_slow",
            f"the body did not arrive within {self._timeout_seconds:g} s",
            headers={"Connection": "close"},
        )


class _Replay:
    """A `receive` that hands the read body on, then whatever the server has next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _drain(receive: Receive) -> None:
    seen = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            while seen < DRAIN_BYTES_MAX:
                message = await receive()
                seen += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


class StrictJsonRequest(Request):
    """A request whose `json()` accepts only standard JSON."""

    async def json(self) -> Any:
        """Parse the body; raise InvalidRequestError, which is answered with 422."""
        if not hasattr(self, "_document"):
            try:
                self._document = from_json(await self.body(), allow_inf_nan=False)
            except ValueError as error:
                fault = Fault("body", None, f"must be standard JSON: {error}")
                raise InvalidRequestError([fault]) from error
        return self._document


class StrictJsonRoute(ThreadRoute):
    """A route whose body must be JSON, declared as such, and within bounds."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler, which would turn our exceptions into its own."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            _require_json(request)
            strict = StrictJsonRequest(request.scope, request.receive)
            if faults := list(bulk_faults(await strict.json(), _sites_max(request))):
                raise InvalidRequestError(faults[:1])
            if faults := list(repetition_faults(await strict.body())):
                raise InvalidRequestError(faults)
            return await handle(strict)

        return handle_strictly


def bulk_faults(document: Any, sites_max: int) -> Iterator[Fault]:
    """Find the objects and lists with more in them than any good request has."""
    if not isinstance(document, dict):
        return
    sites = document.get("sites")
    if isinstance(sites, list) and len(sites) > sites_max:
        yield Fault("sites", shorten(sites), f"at most {sites_max} sites in one request")
        return
    for name, part in _parts(document).items():
        if isinstance(part, (dict, list)) and len(part) > FIELDS_MAX:
            yield Fault(name, shorten(part), f"at most {FIELDS_MAX} entries")


class _Repeating(dict[str, Any]):
    """An object with a name that is in it more than once; `names` has every one as it came."""

    names: list[str]


def repetition_faults(body: bytes) -> Iterator[Fault]:
    """Find the names that an object of a body in standard JSON has more than once.

    Readers differ in which of them counts: one before us may have checked another.
    """
    # Numbers stay text: they were checked, and long ones take time.
    document = json.loads(body.decode(), object_pairs_hook=_kept, parse_int=str, parse_float=str)
    if not isinstance(document, dict):
        return
    for name, part in _parts(document).items():
        if not isinstance(part, _Repeating):
            continue
        for key, count in Counter(part.names).items():
            if count > 1:
                field = key if part is document else f"{name}.{key}"
                yield Fault(str(shorten(field)), None, f"named {count} times; name it once")


def _kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    kept = dict(pairs)
    if len(kept) == len(pairs):
        return kept
    repeating = _Repeating(kept)
    repeating.names = [name for name, _value in pairs]
    return repeating


def _parts(document: dict[str, Any]) -> dict[str, Any]:
    """Return every place where a good request has an object or a list of scenarios."""
    sites = document.get("sites")
    parts = {"body": document, "years": document.get("years")}
    parts["scenarios"] = document.get("scenarios")
    if isinstance(sites, list):
        parts |= {f"sites[{index}]": site for index, site in enumerate(sites)}
    return parts


def _require_json(request: Request) -> None:
    encodings = request.headers.getlist("content-encoding")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding must be identity, not {shorten(', '.join(encodings))}",
            headers={"Accept-Encoding": "identity"},
        )
    media_type, *parameters = request.headers.get("content-type", "").lower().split(";")
    charsets = [one.strip() for one in parameters if one.strip().startswith("charset")]
    if media_type.strip() != "application/json" or any(
        one.replace('"', "") != "charset=utf-8" for one in charsets
    ):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json, in UTF-8"
        )


def _sites_max(request: Request) -> int:
    limit: int = request.app.state.services.settings.limits.sites_max
    return limit
