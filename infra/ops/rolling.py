"""Restart, replace or retire PgBouncer replicas one at a time, with no request failing.

A replica that is to go stops taking clients; the app's pools replace their connections and
find the others; when nobody is left on it the host restarts, replaces or removes it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.ops import app_control, exits, pause, serving
from infra.ops.app_control import Control
from infra.ops.bounded import TimedOutError
from infra.ops.ending import Ending
from infra.ops.host_step import ask_host
from infra.ops.operation import RefusedError, operate
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere

# A pool gives a lent connection up when the borrower returns it.
LEAVE_SECONDS = 20.0
# Connections that were being made during one drain are caught by the next.
DRAIN_AGAIN_SECONDS = 2.0
# The host's step: stop, start or replace a container; then it must log in to PostgreSQL.
REPLACE_SECONDS = 60.0
POLL_SECONDS = 0.1
_SESSION = "sluice-ops-rolling"


def restart(settings: OpsSettings, directory: Path, *, wait_seconds: float) -> int:
    """Restart (or replace, where the image changed) every replica; return the exit code."""

    def work(_: Ending, console: Console) -> int:
        return Roller(settings, app_control.connect(settings), console).restart()

    return operate(directory, "restart pgbouncer", work, wait_seconds=wait_seconds)


def retire(settings: OpsSettings, directory: Path, name: str, *, wait_seconds: float) -> int:
    """Take one replica out of service and have it removed; return the exit code."""

    def work(_: Ending, console: Console) -> int:
        return Roller(settings, app_control.connect(settings), console).retire(name)

    return operate(directory, f"retire {name}", work, wait_seconds=wait_seconds)


def spread(settings: OpsSettings, directory: Path, replicas: int, *, wait_seconds: float) -> int:
    """Spread the app's connections over that many replicas; return the exit code."""

    def work(_: Ending, console: Console) -> int:
        return Roller(settings, app_control.connect(settings), console).spread(replicas)

    return operate(directory, "spread clients", work, wait_seconds=wait_seconds)


@dataclass(frozen=True, slots=True)
class Roller:
    """What every step of a rolling operation needs."""

    settings: OpsSettings
    control: Control
    console: Console

    def restart(self) -> int:
        """Restart (or replace, where the image changed) every replica in turn."""
        replicas = serving.require(self.settings, self._expected())
        if len(replicas) == 1:
            raise RefusedError(
                "one PgBouncer replica has nobody to take its clients meanwhile; "
                "add one first: make scale-pgbouncer N=2"
            )
        for target in replicas:
            began = time.monotonic()
            with self._left(target):
                ask_host("replace-pgbouncer", target.name)
                serving.await_all(self.settings, len(replicas), seconds=REPLACE_SECONDS)
            self.console.print(f"{target.name}: new after {time.monotonic() - began:.1f} s")
        return self.spread(len(replicas))

    def retire(self, name: str) -> int:
        """Take one replica out of service and have the host remove it."""
        replicas = serving.require(self.settings)
        target = next((one for one in replicas if one.name == name), None)
        if target is None or len(replicas) == 1:
            names = ", ".join(one.name for one in replicas)
            raise RefusedError(f"{name} is not one of several replicas that run: {names}")
        began = time.monotonic()
        with self._left(target):
            ask_host("remove-pgbouncer", target.name)
            serving.await_all(self.settings, len(replicas) - 1, seconds=REPLACE_SECONDS)
        self.console.print(f"{target.name}: gone after {time.monotonic() - began:.1f} s")
        return exits.OK

    def spread(self, expected: int) -> int:
        """Have the app's connections spread over all replicas, once all of them serve."""
        serving.await_all(self.settings, expected, seconds=REPLACE_SECONDS)
        self._drain()
        self.console.print(f"{expected} PgBouncer replicas serve")
        return exits.OK

    def _expected(self) -> int:
        return int(self.settings.values["pgbouncer"]["replicas"])

    @contextmanager
    def _left(self, target: Target) -> Iterator[None]:
        """Empty a replica of clients for the block.

        The session on its console stays: the last client to leave would end the process,
        and the container's restart policy would start it before the host's step.
        """
        with self._session(target) as keeper, self._session(target) as admin:
            keeper.shutdown("WAIT_FOR_CLIENTS")
            if left := self._others_after_leaving(keeper):
                self._end_transactions(target, admin, left)
            yield

    def _session(self, target: Target) -> PgBouncerAdmin:
        return PgBouncerAdmin(target, self.settings, application_name=_SESSION)

    def _others_after_leaving(self, admin: PgBouncerAdmin) -> int:
        """Drain the app's pools until nobody is left here; return who stays after all."""
        deadline = time.monotonic() + LEAVE_SECONDS
        again = 0.0
        while (left := _others(admin)) and time.monotonic() < deadline:
            if time.monotonic() >= again:
                self._drain()
                again = time.monotonic() + DRAIN_AGAIN_SECONDS
            time.sleep(POLL_SECONDS)
        return left

    def _end_transactions(self, target: Target, admin: PgBouncerAdmin, left: int) -> None:
        """Let the transactions of clients that did not leave end, and start no more."""
        self.console.print(f"{target.name}: {left} client(s) stay; waiting for transactions")
        try:
            admin.pause(seconds=pause.limits(self.settings).drain_seconds)
        except TimedOutError:
            self.console.print(f"{target.name}: a transaction did not end; it is cut off")

    def _drain(self) -> None:
        """Have every process replace its connections; one that cannot is told of."""
        for answer in everywhere(self.control.targets(), self.control.drain):
            if not answer.ok:
                self.console.print(answer.error)


def _others(admin: PgBouncerAdmin) -> int:
    """Count the clients that are not this command's own sessions."""
    return sum(row["application_name"] != _SESSION for row in admin.show("CLIENTS"))
