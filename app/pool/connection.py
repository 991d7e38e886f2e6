"""One pooled connection: made with every parameter spelt out, and cut from outside."""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Self, cast

import structlog
from psycopg import Connection, Cursor
from psycopg.errors import Diagnostic
from psycopg.rows import Row, TupleRow, tuple_row
from psycopg.sql import SQL, Composable

from .classification import UNREPLICATED
from .types import ConnectionSettings, ConnectRecord

GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | select.POLLRDHUP
"""Events after which nothing can be read from, or written to, the peer."""

log = structlog.get_logger(__name__)


class _PollFd(ctypes.Structure):
    """`struct pollfd` of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


@cache
def _poll() -> ctypes._NamedFuncPointer:
    # PyDLL, unlike CDLL, keeps the interpreter lock during the call. No argtypes: each
    # would convert an argument that is a C value already, at a third of the call's cost.
    return ctypes.PyDLL(None).poll


class SocketPoll:
    """poll(2) on one socket, without giving up the interpreter lock; one thread at a time.

    `select.poll` releases the lock around the call. With a timeout of zero the call
    returns in a microsecond, but under load the thread then waits up to milliseconds
    for the lock: the p99 of a checkout among four busy threads was twenty times that of
    a checkout without the poll.
    """

    __slots__ = ("_arguments", "_call", "_entry")

    def __init__(self, descriptor: int) -> None:
        self._entry = _PollFd(descriptor, select.POLLIN | select.POLLRDHUP, 0)
        self._arguments = (ctypes.byref(self._entry), ctypes.c_ulong(1), ctypes.c_int(0))
        self._call = _poll()

    def events(self) -> int:
        """Return the events pending now: 0 for an open socket with nothing to read.

        A poll that fails (no memory) counts as an error of the socket: a connection
        too many is replaced, never a dead one lent.
        """
        found = self._call(*self._arguments)
        if found == 0:
            return 0
        return int(self._entry.revents) if found > 0 else select.POLLERR


class MarkedCursor(Cursor[Row]):
    """Begins every statement with the name of the work it is for, as sqlcommenter writes it.

    `/*action='submit'*/ INSERT ...` shows in pg_stat_activity and pg_stat_statements, and in
    the log where that has statements. It is the same for every call of a work, because what
    differs, such as the id of a request, would make each a statement of its own to prepare.
    """

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Self:
        """Execute as psycopg does."""
        return super().execute(self._marked(query), *arguments, **options)

    def executemany(self, query: Any, *arguments: Any, **options: Any) -> None:
        """Execute as psycopg does."""
        super().executemany(self._marked(query), *arguments, **options)

    def copy(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        """Copy as psycopg does."""
        return super().copy(self._marked(statement), *arguments, **options)

    def _marked(self, query: Any) -> Any:
        mark = _mark(cast("PooledConnection", self.connection).work)
        if isinstance(query, str):
            return mark + query
        if isinstance(query, bytes):
            return mark.encode() + query
        # What is left, a template of t"...", has its parts fixed.
        return SQL(mark) + query if isinstance(query, Composable) else query


@lru_cache(maxsize=256)
def _mark(work: str) -> str:
    # Names are constants of the code; none may end the comment, or look like a placeholder.
    return f"/*action='{re.sub(r'[^0-9A-Za-z_.:-]', '-', work)}'*/ " if work else ""


class PooledConnection(Connection[TupleRow]):
    """A psycopg connection with a second descriptor for its socket.

    The duplicate is what the pool polls and what the watchdog shuts down. A
    descriptor of our own stays ours until `close`, whereas libpq closes the number
    it uses whenever it meets an error, and the number may belong to another
    connection a microsecond later.
    """

    verified_at: float = float("-inf")
    """Monotonic time when this connection last proved that it works."""

    work: str = ""
    """Name of the work that the connection is lent for, or was last."""

    address: str = ""
    """Its own end, as `address:port`: by that PgBouncer names it in its log."""

    unreplicated: str = ""
    """What the server said when it gave up waiting for a standby; its COMMIT looks as ever."""

    _tap: socket.socket | None = None
    _tap_lock: Lock
    _poll: SocketPoll | None = None

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect as psycopg does and note the outcome in the argument `record`."""
        record: ConnectRecord = kwargs.pop("record")
        started = monotonic()
        try:
            connection = super().connect(conninfo, **kwargs)
        except Exception as error:
            _note_failed(record, error)
            raise
        connection.tap()
        connection.add_notice_handler(connection.note)
        now = monotonic()
        record.opened_within(now - started)
        if record.note_opened(now):
            log.info("connecting works again", pool=record.pool, failed_attempts=record.failed)
        return connection

    def note(self, notice: Diagnostic) -> None:
        """Keep a warning that a COMMIT was not waited for; PostgreSQL has no SQLSTATE for it."""
        if UNREPLICATED in (text := notice.message_primary or ""):
            self.unreplicated = text

    def tap(self) -> None:
        """Duplicate the socket's descriptor for polling and cutting."""
        self._tap_lock = Lock()
        try:
            self._tap = socket.socket(fileno=os.dup(self.fileno()))
        except OSError:
            self.close()
            raise
        self._poll = SocketPoll(self._tap.fileno())
        # Of a Unix socket it has none.
        own = self._tap.getsockname()
        self.address = f"{own[0]}:{own[1]}" if isinstance(own, tuple) else ""
        self.verified_at = monotonic()

    def events(self) -> int:
        """Return the poll events pending on the idle socket: 0 is healthy silence."""
        return self._poll.events() if self._poll is not None else select.POLLNVAL

    def cut(self) -> None:
        """End the connection from any thread; a call in flight on it fails at once."""
        with self._tap_lock:
            if self._tap is not None:
                with suppress(OSError):
                    self._tap.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection and the duplicate descriptor; safe to call again."""
        super().close()
        with self._tap_lock:
            self._poll = None
            if self._tap is not None:
                self._tap.close()
                self._tap = None


def _note_failed(record: ConnectRecord, error: BaseException) -> None:
    """Count a failed attempt; log the first of an outage, not one line for each."""
    if record.note_failed(monotonic(), error):
        log.warning("connecting fails", pool=record.pool, error=record.last_error)


def connect_arguments(settings: ConnectionSettings, record: ConnectRecord) -> dict[str, Any]:
    """Return the arguments of one connection attempt.

    psycopg_pool calls this for every attempt, so that a rotated password counts from
    the next connection on.
    """
    try:
        password = read_password(settings)
    except OSError as error:
        _note_failed(record, error)
        raise
    return driver_arguments(settings) | {"password": password, "record": record}


def read_password(settings: ConnectionSettings) -> str:
    """Return the content of the password file without its line end; raise OSError."""
    return Path(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")


def driver_arguments(settings: ConnectionSettings) -> dict[str, Any]:
    """Return every parameter of psycopg and libpq except the password."""
    return {
        "host": settings.host,
        "port": settings.port,
        "dbname": settings.dbname,
        "user": settings.user,
        "sslmode": settings.sslmode,
        # libpq would look for ~/.postgresql/root.crt; an empty value must not turn that off.
        **({"sslrootcert": settings.sslrootcert} if settings.sslrootcert else {}),
        # Spreads connections over the poolers behind one name.
        "load_balance_hosts": settings.load_balance_hosts,
        # Any server: what is writable is the pooler's business, and asking costs a query.
        "target_session_attrs": "any",
        "application_name": settings.application_name,
        # Per address; the default of 130 s outlives every request.
        "connect_timeout": settings.connect_timeout_seconds,
        # What the kernel does about a dead peer while nobody's deadline is running.
        "tcp_user_timeout": settings.tcp_user_timeout_ms,
        "keepalives": 1,
        "keepalives_idle": settings.keepalives_idle_seconds,
        "keepalives_interval": settings.keepalives_interval_seconds,
        "keepalives_count": settings.keepalives_count,
        # No attempt at Kerberos first: it would cost a round trip to be refused.
        "gssencmode": "disable",
        "client_encoding": "UTF8",
        # A transaction is opened only where one is wanted: reads save two round trips.
        "autocommit": True,
        # Executions before a statement is prepared on the server (None: never).
        "prepare_threshold": settings.prepare_threshold,
    }


def configure(connection: PooledConnection, settings: ConnectionSettings) -> None:
    """Set what is an attribute and not a parameter; makes no round trip."""
    connection.prepared_max = settings.prepared_max
    connection.cursor_factory = MarkedCursor


def restore(connection: PooledConnection, settings: ConnectionSettings) -> bool:
    """Put back client-side settings that a borrower changed; return True if any was.

    None of these makes a round trip. The connection must be outside a transaction.
    """
    clean = (
        connection.autocommit
        and connection.row_factory is tuple_row
        and connection.prepare_threshold == settings.prepare_threshold
        and connection.isolation_level is None
        and connection.read_only is None
        and connection.deferrable is None
    )
    if clean:
        return False
    connection.autocommit = True
    connection.row_factory = tuple_row
    connection.prepare_threshold = settings.prepare_threshold
    connection.isolation_level = connection.read_only = connection.deferrable = None
    return True
