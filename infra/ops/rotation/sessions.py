"""Every process of the stack is there, and every connection of both hops is replaced."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from infra.config.names import SERVICES
from infra.config.settings import Values
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.app_control import Control, drained
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.processes import OpsSettings, Target, everywhere
from infra.ops.outcome import FailedError, RefusedError

_SLACK_SECONDS: Final = 5.0
_APP_ENTRIES: Final = tuple(one.entry for one in SERVICES)
_Client = tuple[str, str, str]


def longest_loan(values: Values) -> float:
    """Return the seconds after which no connection is lent that was lent before."""
    names = ("API_REQUEST_DEADLINE_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS")
    return max(float(values.number(name)) for name in names) + _SLACK_SECONDS


def require_all(settings: OpsSettings) -> tuple[Target, ...]:
    """Return every PgBouncer replica; refuse unless every process of the stack answers."""
    replicas = pgbouncer.require(settings, int(settings.values["pgbouncer"]["replicas"]))
    app = app_control.connect(settings)
    answers = everywhere(app.targets(), app.state)
    faults = [f"{one.target}: {one.error}" for one in answers if not one.ok]
    faults += app.absent().values()
    if faults:
        raise RefusedError("; ".join(faults))
    return replicas


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
        left = drained(self._drain, lambda: self._left(before), seconds=self.wait_seconds)
        if left:
            raise FailedError(f"connections are lent since: {', '.join(left)}")

    def _left(self, before: dict[Target, set[_Client]]) -> list[str]:
        counts = {target: len(self._clients(target) & old) for target, old in before.items()}
        return [f"{count} on {target}" for target, count in counts.items() if count]

    def _clients(self, target: Target) -> set[_Client]:
        """Return the app's connections to a replica, distinguished by peer and time."""
        with PgBouncerAdmin(target, self.settings) as admin:
            rows = admin.show("CLIENTS")
        return {_client(row) for row in rows if row["database"] in _APP_ENTRIES}

    def _drain(self) -> None:
        for answer in everywhere(self.control.targets(), self.control.drain):
            if not answer.ok:
                raise FailedError(f"{answer.target}: {answer.error}")


def _client(row: dict[str, Any]) -> _Client:
    return str(row["addr"]), str(row["port"]), str(row["connect_time"])
