"""Replace every connection of both hops, so that none is left that was made before."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from infra.config.names import CLIENTS
from infra.ops.app_control import Control
from infra.ops.operation import FailedError
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere

# A connection that was being made during one drain is caught by the next.
_DRAIN_AGAIN_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.1
_APP_ENTRIES: Final = tuple(client.entry for client in CLIENTS)
_Client = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Sessions:
    """What every step needs; connections may stay lent for `wait_seconds`."""

    settings: OpsSettings
    control: Control
    replicas: tuple[Target, ...]
    wait_seconds: float
    say: Callable[[str], None]

    def replace(self) -> None:
        """Replace server connections and client connections; wait until the old are gone.

        Raises:
            FailedError: some are still there after `wait_seconds`; names how many and where.

        """
        began = time.monotonic()
        clients = {target: self._clients(target) for target in self.replicas}
        # One replica after the other, so that the rest have warm connections meanwhile.
        for target in self.replicas:
            self._replace_servers(target)
        self._await_clients(clients)
        self.say(f"connections: all replaced, {time.monotonic() - began:.1f} s")

    def _replace_servers(self, target: Target) -> None:
        with PgBouncerAdmin(target, self.settings) as admin:
            old = admin.replace_servers(seconds=self.wait_seconds)
        if old:
            raise FailedError(f"{target}: {len(old)} server connections are busy since")

    def _await_clients(self, before: dict[Target, set[_Client]]) -> None:
        deadline, again = time.monotonic() + self.wait_seconds, 0.0
        while left := self._left(before):
            now = time.monotonic()
            if now > deadline:
                raise FailedError(f"connections are lent since: {', '.join(left)}")
            if now >= again:
                self._drain()
                again = now + _DRAIN_AGAIN_SECONDS
            time.sleep(_POLL_SECONDS)

    def _left(self, before: dict[Target, set[_Client]]) -> list[str]:
        counts = {target: len(self._clients(target) & old) for target, old in before.items()}
        return [f"{count} on {target}" for target, count in counts.items() if count]

    def _clients(self, target: Target) -> set[_Client]:
        """Return the app's connections to a replica, told apart by peer and time."""
        with PgBouncerAdmin(target, self.settings) as admin:
            rows = admin.show("CLIENTS")
        return {_client(row) for row in rows if row["database"] in _APP_ENTRIES}

    def _drain(self) -> None:
        for answer in everywhere(self.control.targets(), self.control.drain):
            if not answer.ok:
                raise FailedError(answer.error)


def _client(row: dict[str, Any]) -> _Client:
    return str(row["addr"]), str(row["port"]), str(row["connect_time"])
