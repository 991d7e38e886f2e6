"""PgBouncer: the admin console of one process, and which replicas serve.

The console is reached over TCP and TLS, every call bounded in time. A replica serves when it
answers there, is not paused, and passes queries.
"""

from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import ClientCursor
from psycopg.conninfo import make_conninfo

from infra.config.names import MONITOR_ENTRY
from infra.ops.clients.processes import Answer, OpsSettings, Target, bounded, everywhere, resolve
from infra.ops.outcome import FailedError, RefusedError
from infra.ops.waiting import gone, wait_until

CALL_SECONDS = 5.0
_QUERY_SECONDS = 3.0
_POLL_SECONDS = 0.1
Row = dict[str, Any]


def replicas(settings: OpsSettings) -> tuple[Target, ...]:
    """Return every PgBouncer process that has an address now."""
    target = settings.values["pgbouncer"]
    return resolve(target["host"], target["port"])


class PgBouncerAdmin:
    """One session on the admin console of one process; use it in a `with` block.

    Raises psycopg.Error when the process refuses, TimedOutError when it does not answer.
    Values of SHOW come as the console gives them: text or whole numbers, by column name.
    """

    def __init__(
        self,
        target: Target,
        settings: OpsSettings,
        *,
        application_name: str = "sluice-ops",
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self.target = target
        self._call_seconds = call_seconds
        self._connection = psycopg.connect(
            settings.admin_conninfo(target.address, application_name=application_name),
            autocommit=True,
            # The console speaks the simple protocol only.
            cursor_factory=ClientCursor,
            prepare_threshold=None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; the process notices by itself."""
        self._connection.close()

    def command(self, statement: str, *, seconds: float | None = None) -> list[Row]:
        """Run one statement of the console and return its rows, none for a plain command."""
        with (
            bounded(self._connection, seconds or self._call_seconds, statement),
            self._connection.cursor() as cursor,
        ):
            cursor.execute(statement.encode())
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def show(self, what: str) -> list[Row]:
        """Return the rows of `SHOW what`, e.g. POOLS, DATABASES, CLIENTS, SERVERS, STATE."""
        return self.command(f"SHOW {what}")

    def config(self) -> dict[str, str]:
        """Return every running value, by the setting's name."""
        return {row["key"]: str(row["value"]) for row in self.show("CONFIG")}

    def databases(self) -> dict[str, Row]:
        """Return the rows of SHOW DATABASES by database entry."""
        return {row["name"]: row for row in self.show("DATABASES")}

    def pools(self) -> list[Row]:
        """Return the rows of SHOW POOLS."""
        return self.show("POOLS")

    def state(self) -> dict[str, str]:
        """Return SHOW STATE: active, paused, suspended, each yes or no."""
        return {row["key"]: str(row["value"]) for row in self.show("STATE")}

    def reload(self) -> None:
        """Read the configuration and the certificates again; what cannot be used is not taken.

        PgBouncer answers RELOAD also when it kept old values: read them back.
        """
        self.command("RELOAD")

    def set(self, key: str, value: str | int) -> None:
        """Set one setting until the next RELOAD."""
        self.command(f"SET {key} = '{value}'")

    def pause(self, database: str = "", *, seconds: float | None = None) -> None:
        """Let running transactions end and start no more; return when none runs.

        On TimedOutError the process may still be pausing: resume it, on a new session.
        """
        self.command(f"PAUSE {database}".strip(), seconds=seconds)

    def resume(self, database: str = "") -> None:
        """Serve again after a pause."""
        self.command(f"RESUME {database}".strip())

    def reconnect(self, database: str = "") -> None:
        """Replace every server connection, each when it is next released."""
        self.command(f"RECONNECT {database}".strip())

    def replace_servers(self, *, seconds: float) -> list[Row]:
        """Replace every server connection; return those still busy after `seconds`."""
        self.reconnect()
        return wait_until(self._outdated, gone, seconds=seconds, every=_POLL_SECONDS)

    def _outdated(self) -> list[Row]:
        return [row for row in self.show("SERVERS") if int(row["close_needed"])]

    def shutdown(self, mode: str = "WAIT_FOR_SERVERS") -> None:
        """Exit: WAIT_FOR_SERVERS after running transactions, WAIT_FOR_CLIENTS after all leave."""
        self.command(f"SHUTDOWN {mode}".strip())

    def wait_servers_at_most(self, limits: dict[str, int], *, seconds: float) -> dict[str, int]:
        """Wait until each database entry has no more server connections than its limit.

        Returns the entries that still had more after `seconds`, with how many.
        """
        return wait_until(lambda: self._over(limits), gone, seconds=seconds, every=_POLL_SECONDS)

    def _over(self, limits: dict[str, int]) -> dict[str, int]:
        now = {name: int(row["current_connections"]) for name, row in self.databases().items()}
        return {name: now[name] for name, limit in limits.items() if now.get(name, 0) > limit}


class NotServingError(RefusedError):
    """A replica is missing or does not answer; one that is on its way back will."""


def require(settings: OpsSettings, expected: int | None = None) -> tuple[Target, ...]:
    """Return every replica; refuse unless all, and as many as expected, serve.

    Raises:
        NotServingError: one is missing or does not answer.
        RefusedError: one is paused.

    """
    found = replicas(settings)
    if expected is not None and len(found) != expected:
        raise NotServingError(
            f"{len(found)} of {expected} PgBouncer replicas run; start them first: make up"
        )
    for answer in everywhere(found, lambda target: _is_paused(settings, target)):
        if not answer.ok:
            raise NotServingError(f"{answer.target}: {answer.error}")
        if answer.value:
            raise RefusedError(f"{answer.target}: is paused")
    return found


def await_all(settings: OpsSettings, expected: int, *, seconds: float) -> tuple[Target, ...]:
    """Return the replicas once as many as expected pass queries to PostgreSQL.

    Raises:
        FailedError: they do not within `seconds`.

    """

    def serve(answers: tuple[Answer[bool], ...]) -> bool:
        return len(answers) == expected and all(answer.ok for answer in answers)

    answers = wait_until(
        lambda: everywhere(replicas(settings), lambda target: _query_through(settings, target)),
        serve,
        seconds=seconds,
        every=_POLL_SECONDS,
    )
    if not serve(answers):
        raise FailedError(_not_serving(answers, expected, seconds))
    return tuple(answer.target for answer in answers)


def _is_paused(settings: OpsSettings, target: Target) -> bool:
    with PgBouncerAdmin(target, settings) as admin:
        return admin.state().get("paused") == "yes"


def _query_through(settings: OpsSettings, target: Target) -> bool:
    """Send a query through this replica to PostgreSQL; proves the path, not the port."""
    conninfo = make_conninfo(
        settings.admin_conninfo(target.address, application_name="sluice-ops", user="monitor"),
        dbname=MONITOR_ENTRY,
    )
    with (
        psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection,
        bounded(connection, _QUERY_SECONDS, "SELECT 1"),
    ):
        connection.execute("SELECT 1")
    return True


def _not_serving(answers: tuple[Answer[bool], ...], expected: int, seconds: float) -> str:
    faults = "".join(f"; {one.target}: {one.error}" for one in answers if not one.ok)
    return (
        f"{sum(one.ok for one in answers)} of {expected} PgBouncer replicas pass queries after "
        f"{seconds:g} s{faults}; see: docker compose logs pgbouncer"
    )
