"""Restart, replace, retire or reconnect PgBouncer replicas one at a time; no request fails.

A replica that is to go stops taking clients; the app's pools replace their connections and
find the others; when nobody is left on it the host restarts, replaces or removes it.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from infra.config import names
from infra.ops import pause
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.app_control import DRAIN_AGAIN_SECONDS, Control, ProcessState, drained
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import Answer, OpsSettings, Target, TimedOutError, everywhere
from infra.ops.operation import Operation, Request, operate
from infra.ops.outcome import FailedError, RefusedError
from infra.ops.waiting import gone, wait_until

# A pool gives a lent connection up when the borrower returns it.
LEAVE_SECONDS = 20.0
# Connections of applications end when they have been idle for so many seconds, and for how long
# that is waited for. The shorter, the likelier it is that one has just been lent: a statement that
# is on its way to a connection that ends is an error to its driver.
IDLE_STEPS = ((1.0, 2.0), (0.3, 10.0), (0.1, 6.0), (0.02, 2.0))
IDLE_AGAIN_SECONDS = 0.2
# The host's step: stop, start or replace a container; then it must log in to PostgreSQL.
REPLACE_SECONDS = 60.0
# A replica that an interrupted run took out ends with its last client and is started again.
TAKE_OVER_SECONDS = 20.0
# Of an interrupted run: no longer than the next one waits for the lock.
HASTE_SECONDS = 3.0
_SESSION = "sluice-ops-rolling"
# Which DDL the server connections have seen.
_DDL_MARK = "ddl.version"


def restart(settings: OpsSettings, request: Request) -> int:
    """Restart (or replace, where the image changed) every replica; return the exit code."""

    def work(operation: Operation) -> None:
        Roller(settings, app_control.connect(settings), operation).restart()

    return operate(request, "restart pgbouncer", work)


def retire(settings: OpsSettings, request: Request, name: str) -> int:
    """Take one replica out of service and have it removed; return the exit code."""

    def work(operation: Operation) -> None:
        Roller(settings, app_control.connect(settings), operation).retire(name)

    return operate(request, f"retire {name}", work)


def spread(settings: OpsSettings, request: Request, replicas: int) -> int:
    """Spread the app's connections over that many replicas; return the exit code."""

    def work(operation: Operation) -> None:
        Roller(settings, app_control.connect(settings), operation).spread(replicas)

    return operate(request, "spread clients", work)


def reconnect(settings: OpsSettings, request: Request, *, if_changed: bool) -> int:
    """Have every replica replace its server connections; return the exit code.

    A prepared statement stays on its server connection, for all clients, and fails once DDL
    has changed its result's type. With `if_changed` nothing happens where there was no DDL
    since the last time.
    """

    def work(operation: Operation) -> None:
        mark = request.directory / _DDL_MARK
        with PostgresAdmin(settings) as admin:
            version = admin.ddl_version()
        if if_changed and mark.exists() and mark.read_text(encoding="utf-8") == version:
            return
        for target in pgbouncer.replicas(settings):
            with PgBouncerAdmin(target, settings) as console:
                busy = console.replace_servers(seconds=LEAVE_SECONDS)
            if busy:
                raise FailedError(f"{target}: {len(busy)} server connections are busy since")
            operation.done(target.name, "server connections replaced")
        # Read before the first replica: DDL since then is found the next time.
        mark.write_text(version, encoding="utf-8")
        operation.ends_as("every PgBouncer has new server connections")

    return operate(request, "reconnect", work)


@dataclass(frozen=True, slots=True)
class Roller:
    """What every step of a rolling operation needs."""

    settings: OpsSettings
    control: Control
    operation: Operation

    def restart(self) -> None:
        """Restart (or replace, where the image changed) every replica in turn."""
        replicas = self._present(int(self.settings.values["pgbouncer"]["replicas"]))
        if len(replicas) == 1:
            raise RefusedError(
                "one PgBouncer replica has nobody to take its clients meanwhile; "
                "add one first: make scale-pgbouncer N=2"
            )
        for target in replicas:
            began = time.monotonic()
            with self._left(target):
                self.operation.say(f"{target.name}: restarting")
                self.operation.ask_host("replace-pgbouncer", target.name)
                pgbouncer.await_all(self.settings, len(replicas), seconds=REPLACE_SECONDS)
            self._finished(target, "new", "restarted", began)
        self.spread(len(replicas))

    def retire(self, name: str) -> None:
        """Take one replica out of service and have the host remove it."""
        replicas = self._present()
        target = next((one for one in replicas if one.name == name), None)
        if target is None or len(replicas) == 1:
            names = ", ".join(one.name for one in replicas)
            raise RefusedError(f"{name} is not one of several replicas that run: {names}")
        began = time.monotonic()
        with self._left(target):
            self.operation.say(f"{target.name}: removing")
            self.operation.ask_host("remove-pgbouncer", target.name)
            pgbouncer.await_all(self.settings, len(replicas) - 1, seconds=REPLACE_SECONDS)
        self._finished(target, "gone", "removed", began)
        self.operation.ends_as(f"{len(replicas) - 1} PgBouncer replicas serve")

    def spread(self, expected: int) -> None:
        """Have the app's connections spread over all replicas, once all of them serve."""
        self.operation.say(f"spreading connections over {expected} replicas")
        pgbouncer.await_all(self.settings, expected, seconds=REPLACE_SECONDS)
        for answer in self._drain():
            if answer.ok:
                self.operation.done(answer.target.name, "connections replaced")
        self.operation.ends_as(f"{expected} PgBouncer replicas serve")

    def _finished(self, target: Target, state: str, done: str, began: float) -> None:
        taken = time.monotonic() - began
        self.operation.say(f"{target.name}: {state} after {taken:.1f} s")
        self.operation.done(target.name, done, taken)

    def _present(self, expected: int | None = None) -> tuple[Target, ...]:
        """Return every replica once all serve; take over what an interrupted run has left.

        Raises:
            RefusedError: one is missing, does not answer, or is paused.

        """
        try:
            return pgbouncer.require(self.settings, expected)
        except pgbouncer.NotServingError as refusal:
            self.operation.say(f"{refusal}; waiting for it")
        if expected is not None:
            self.operation.ask_host("start", f"pgbouncer={expected}")

        def serving() -> tuple[Target, ...] | pgbouncer.NotServingError:
            # Whoever still is on a replica that takes no new client keeps it from ending.
            self._drain()
            try:
                return pgbouncer.require(self.settings, expected)
            except pgbouncer.NotServingError as refusal:
                return refusal

        found = wait_until(
            serving,
            lambda one: isinstance(one, tuple),
            seconds=TAKE_OVER_SECONDS,
            every=DRAIN_AGAIN_SECONDS / 2,
        )
        if isinstance(found, pgbouncer.NotServingError):
            raise found
        return found

    @contextmanager
    def _left(self, target: Target) -> Iterator[None]:
        """Empty a replica of clients for the block.

        The session on its console stays: the last client to leave would end the process,
        and the container's restart policy would start it before the host's step. Where the
        block is not finished, that is what brings the replica back.
        """
        self.operation.say(f"{target.name}: clients leave")
        with self._session(target) as keeper, self._session(target) as admin:
            try:
                # Inside: a signal can come between the console's doing it and its answer.
                keeper.shutdown("WAIT_FOR_CLIENTS")
                left = self._others_after_leaving(keeper, LEAVE_SECONDS)
                others = self._applications_after_idling(target, admin)
                if left or others:
                    self._end_transactions(target, admin, left, others)
                yield
            except BaseException:
                self._hasten(admin, keeper)
                raise

    def _hasten(self, *consoles: PgBouncerAdmin) -> None:
        """Have the replica end soon; no new session can be made, and a signal may have cut one."""
        for console in consoles:
            # Nothing to hasten where the process has ended already.
            with suppress(psycopg.Error, TimedOutError):
                self._others_after_leaving(console, HASTE_SECONDS)
                console.shutdown("WAIT_FOR_SERVERS")
                return

    def _session(self, target: Target) -> PgBouncerAdmin:
        return PgBouncerAdmin(target, self.settings, application_name=_SESSION)

    def _others_after_leaving(self, admin: PgBouncerAdmin, seconds: float) -> int:
        """Drain the app's pools until nobody is left here; return who stays after all."""
        return drained(self._drain, lambda: _others(admin), seconds=seconds)

    def _applications_after_idling(self, target: Target, admin: PgBouncerAdmin) -> Counter[str]:
        """End the connections of applications as they become idle; return those that never were.

        Applications are not told to leave: a pool that asks a connection before it lends it makes
        another, and PgBouncer ends none that is in a transaction.
        """
        if others := _applications(admin):
            self.operation.say(f"{target.name}: connections end when idle: {_counted(others)}")
        for idle, seconds in IDLE_STEPS:
            if not others:
                break
            admin.set("client_idle_timeout", str(idle))
            others = wait_until(
                lambda: _applications(admin), gone, seconds=seconds, every=IDLE_AGAIN_SECONDS
            )
        return others

    def _end_transactions(
        self, target: Target, admin: PgBouncerAdmin, left: int, others: Counter[str]
    ) -> None:
        """Let the transactions of clients that did not leave end, and start no more."""
        if left:
            self.operation.warn(f"{target.name}: {left} client(s) stay; waiting for transactions")
        if others:
            self.operation.warn(
                f"{target.name}: never idle, and cut off after a transaction: {_counted(others)}"
            )
        try:
            admin.pause(seconds=pause.limits(self.settings).drain_seconds)
        except TimedOutError:
            self.operation.warn(f"{target.name}: a transaction did not end; it is cut off")

    def _drain(self) -> tuple[Answer[ProcessState], ...]:
        """Have every process replace its connections; failures are reported as warnings."""
        answers = everywhere(self.control.targets(), self.control.drain)
        for answer in answers:
            if not answer.ok:
                self.operation.warn(f"{answer.target}: {answer.error}")
        return answers


def _others(admin: PgBouncerAdmin) -> int:
    """Count the clients that leave when they are told to: all but applications.

    Without sessions on the console: this command's, and those of who watches, which end with the
    process.
    """
    return sum(row["database"] != "pgbouncer" for row in _clients(admin, own=True))


def _applications(admin: PgBouncerAdmin) -> Counter[str]:
    """Count the connections of applications that have a file of their own, by name."""
    return Counter(row["database"] for row in _clients(admin, own=False))


def _counted(applications: Counter[str]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in sorted(applications.items()))


def _clients(admin: PgBouncerAdmin, *, own: bool) -> Iterator[dict[str, Any]]:
    ours = ("pgbouncer", names.MONITOR_ENTRY, *(one.entry for one in names.SERVICES))
    rows = admin.show("CLIENTS")
    return (row for row in rows if (row["database"] in ours) is own)
