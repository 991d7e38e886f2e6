"""The admin console of one PgBouncer process, over TCP and TLS, every call bounded in time."""

import time
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import ClientCursor

from infra.ops import targets
from infra.ops.bounded import bounded
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target

CALL_SECONDS = 5.0
Row = dict[str, Any]


def replicas(settings: OpsSettings) -> tuple[Target, ...]:
    """Return every PgBouncer process that has an address now."""
    target = settings.values["pgbouncer"]
    return targets.resolve(target["host"], target["port"])


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
        """Return every setting in force, by name."""
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
        deadline = time.monotonic() + seconds
        while old := [row for row in self.show("SERVERS") if int(row["close_needed"])]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return old

    def shutdown(self, mode: str = "WAIT_FOR_SERVERS") -> None:
        """Exit: WAIT_FOR_SERVERS after running transactions, WAIT_FOR_CLIENTS after all leave."""
        self.command(f"SHUTDOWN {mode}".strip())

    def wait_servers_at_most(self, limits: dict[str, int], *, seconds: float) -> dict[str, int]:
        """Wait until each database entry has no more server connections than its limit.

        Returns the entries that still had more after `seconds`, with how many.
        """
        deadline = time.monotonic() + seconds
        while over := self._over(limits):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return over

    def _over(self, limits: dict[str, int]) -> dict[str, int]:
        now = {name: int(row["current_connections"]) for name, row in self.databases().items()}
        return {name: now[name] for name, limit in limits.items() if now.get(name, 0) > limit}
