"""An HTTP connection that is bounded: in bytes, in time, and in number.

Uvicorn's parser, httptools, bounds no part of a request's head; its one timer is that of an
idle kept-alive connection, and the first byte ends it. `bounded` and `BoundedServer`
together are what every server of this project runs: api, worker and control plane.
"""

import json
import resource
from asyncio import get_running_loop
from collections import deque
from http import HTTPStatus
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.log import get_logger

# What Node.js takes of request line and headers together; ours are below one kB.
HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
# The parser gets no more at once, so that it never holds more than a head and this.
PIECE_BYTES = 4096
# Requests that wait behind one whose answer is not complete, and the bytes of all of them.
# Measured: with 16 full heads each, 400 connections took 180 MB.
PIPELINED_MAX = 16
PIPELINED_BYTES_MAX = HEAD_BYTES_MAX
# From the connection, or the first byte on a kept one, to the end of the head.
HEAD_SECONDS = 10.0
# Above the largest API_REQUEST_DEADLINE_SECONDS, at which the api answers by itself.
BODY_SECONDS = 30.0
# A caller that takes less than that of an answer within that time is cut.
UNSENT_SECONDS = 30.0
TAKEN_BYTES_MIN = 32 * 1024
# A refused caller is read, and not parsed, for so long: a reset would take the answer away.
# Beyond so many bytes it has to wait: reading without an end would cost others their time.
LINGER_SECONDS = 2.0
LINGER_BYTES_MAX = 1024 * 1024
# Behind a published port of Docker all callers of the host share one address, so the
# bound leaves room for ordinary use: it keeps one address from taking everything.
CLIENT_SHARE = 2
RETRY_AFTER_SECONDS = 2
log = get_logger("app.connection")


class RequestRefusedError(Exception):
    """Raised in the parser's callbacks, where it ends the parsing."""


class BoundedConnection(HttpToolsProtocol):
    """One connection; `check` is to be called every second."""

    connections_max: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._too_large = False
        self._refused = False
        # A request has begun to arrive, and its last byte has not.
        self._arriving = False
        self._waiting_since: float | None = None
        self._due: float | None = None
        self._head_bytes = self._header_count = self._unparsed_bytes = 0
        self._ignored_bytes = 0
        # Of each request that waits, the newest last; older ones may have been answered since.
        self._pipelined_bytes: deque[int] = deque()
        self._unsent_since: float | None = None
        self._unsent_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Take the connection, or make room for it, or refuse it."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.connections_max and not _evict_from(self.connections, self):
            # Not even an answer: that would hold the connection for longer.
            transport.abort()
            self.connections.discard(self)
        elif len(self.connections) > self.connections_max // CLIENT_SHARE:
            self._bound_client()

    def _bound_client(self) -> None:
        address = self.client and self.client[0]
        own = {
            one
            for one in self.connections
            if isinstance(one, BoundedConnection) and one.counts_for(address)
        }
        largest = self.connections_max // CLIENT_SHARE
        if len(own) > largest and not _evict_from(own, self):
            message = (
                f"{largest} connections from this address are open; use them again, "
                f"or try again in {RETRY_AFTER_SECONDS} s"
            )
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", message)

    def data_received(self, data: bytes) -> None:
        """Parse what came, in pieces; what the parser makes nothing of is counted."""
        for start in range(0, len(data), PIECE_BYTES):
            if self._refused:
                self._ignore(len(data) - start)
                return
            if self.transport.is_closing():
                return
            if self._due is None and (self.cycle is None or self.cycle.response_complete):
                # From here on uvicorn's timer for idle connections is off.
                self._await_head()
            piece = data[start : start + PIECE_BYTES]
            self._unparsed_bytes += len(piece)
            super().data_received(piece)
            if self._unparsed_bytes > HEAD_BYTES_MAX and not self._refused:
                # One header, trailer or chunk's size without an end.
                self._too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._head_bytes = self._header_count = 0
        self._arriving = True
        if self._waiting_since is None:
            self._await_head()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer after a chunked body."""
        super().on_header(name, value)
        self._unparsed_bytes = 0
        self._header_count += 1
        self._count(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        """Begin to answer; from now on the body is awaited."""
        self._unparsed_bytes = 0
        self._waiting_since, self._due = None, self.loop.time() + BODY_SECONDS
        super().on_headers_complete()
        if self._is_pipelined():
            self._pipelined_bytes.append(0)
            self._count_pipelined(self._head_bytes)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)
        if self._is_pipelined():
            self._count_pipelined(len(body))

    def on_message_complete(self) -> None:
        """Await nothing more of this request."""
        self._unparsed_bytes = 0
        self._arriving, self._due = False, None
        super().on_message_complete()

    def resume_writing(self) -> None:
        """Note that the caller has taken a part of its answer."""
        self._unsent_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is too large to be parsed, or malformed."""
        if self._refused:
            return
        if self._too_large:
            message = f"at most {HEADERS_MAX} headers, {HEAD_BYTES_MAX} bytes with the request line"
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(status, "headers_too_large", message)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "malformed_request", msg)

    def check(self, now: float) -> None:
        """End what is late; `now` as the loop's clock has it."""
        # While reading is paused it is not the caller who is late.
        paused = self.flow.read_paused and not self._refused
        if self._due is not None and now >= self._due and not paused:
            self._end_late()
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._unsent_since = None
        elif self._unsent_since is None or unsent <= self._unsent_bytes - TAKEN_BYTES_MIN:
            self._unsent_since, self._unsent_bytes = now, unsent
        elif now - self._unsent_since >= UNSENT_SECONDS:
            self.transport.abort()

    def counts_for(self, address: str | None) -> bool:
        """Return True for a connection of this address that is not refused."""
        return not self._refused and (self.client and self.client[0]) == address

    @property
    def waiting_since(self) -> float | None:
        """Return since when a head, or the end of a refused caller, is awaited; else None."""
        return self._waiting_since

    def _await_head(self) -> None:
        self._waiting_since = self.loop.time()
        self._due = self._waiting_since + HEAD_SECONDS

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX or self._header_count > HEADERS_MAX:
            self._too_large = True
            raise RequestRefusedError

    def _is_pipelined(self) -> bool:
        """Return True if the request that arrives waits behind another."""
        return bool(self.pipeline) and self.pipeline[0][0] is self.cycle

    def _count_pipelined(self, size: int) -> None:
        while len(self._pipelined_bytes) > len(self.pipeline):
            self._pipelined_bytes.popleft()
        self._pipelined_bytes[-1] += size
        held = sum(self._pipelined_bytes)
        if len(self.pipeline) > PIPELINED_MAX or held > PIPELINED_BYTES_MAX:
            most = f"{PIPELINED_MAX} requests, {PIPELINED_BYTES_MAX} bytes"
            message = f"at most {most}, may wait behind one"
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "pipeline_too_long", message)
            raise RequestRefusedError

    def _end_late(self) -> None:
        if self._refused or not self._arriving:
            self.transport.abort()
            return
        part, seconds = (
            ("body", BODY_SECONDS) if self._waiting_since is None else ("head", HEAD_SECONDS)
        )
        message = f"the request's {part} did not arrive within {seconds:g} s"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_too_slow", message)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        """Answer, and read on for a moment; in the middle of another answer: cut."""
        self._refused = True
        host = self.client[0] if self.client else ""
        log.info("connection refused", status=int(status), code=code, client=host)
        if self._is_answering():
            self.transport.abort()
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_answer(status, code, message))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._waiting_since = self.loop.time()
        self._due = self._waiting_since + LINGER_SECONDS

    def _ignore(self, size: int) -> None:
        self._ignored_bytes += size
        if self._ignored_bytes > LINGER_BYTES_MAX:
            self.flow.pause_reading()

    def _is_answering(self) -> bool:
        if self.pipeline:
            return True
        if self.cycle is None:
            return False
        if self._waiting_since is not None:
            # This one is the request before.
            return not self.cycle.response_complete
        return self.cycle.response_started


def bounded(connections_max: int) -> type[BoundedConnection]:
    """Return the protocol of a server that holds so many connections at most.

    Half of the files that the process may open are left for its own. One client address
    has at most half of the connections. At a bound, the connection that has waited longest
    for the head of a request makes room; where none waits, the new one is refused.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowed = (
        connections_max if files == resource.RLIM_INFINITY else min(connections_max, files // 2)
    )

    class Connection(BoundedConnection):
        connections_max = allowed

    return Connection


class BoundedServer(uvicorn.Server):
    """A server whose connections end when they are late."""

    async def on_tick(self, counter: int) -> bool:
        """Look at every connection once a second."""
        if counter % 10 == 0:
            now = get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedConnection):
                    connection.check(now)
        return await super().on_tick(counter)


def _evict_from(connections: set[Any], newest: BoundedConnection) -> bool:
    """Close the one that is awaited longest; return False where none is."""
    waiting = [one for one in connections if one.waiting_since is not None and one is not newest]
    if not waiting:
        return False
    longest: BoundedConnection = min(waiting, key=lambda one: one.waiting_since)
    longest.transport.abort()
    # No longer counted, although the loop calls connection_lost only later.
    longest.connections.discard(longest)
    return True


def _answer(status: HTTPStatus, code: str, message: str) -> bytes:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(body)}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER_SECONDS
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return STATUS_LINE[status] + "".join([*lines, "Connection: close\r\n\r\n"]).encode() + body
