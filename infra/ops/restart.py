"""Restart PostgreSQL, or api and worker, while the stack serves.

PostgreSQL is restarted behind a pause in which clients wait. Of api and worker one process after
the other is replaced, and its settings are read back.
"""

import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from infra.ops import pause_record
from infra.ops.clients import app_control
from infra.ops.clients.app_control import Control, NotListeningError, ProcessState
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import Answer, OpsSettings, Target, everywhere, resolve
from infra.ops.operation import Operation, Request, operate
from infra.ops.outcome import FailedError, RefusedError
from infra.ops.paused_change import paused_change
from infra.ops.waiting import gone, wait_until

# A successor of an api process listens at once; its predecessor answers here for a moment longer.
_SUCCEED_SECONDS: Final = 20.0
# What an interrupted run has left out must start.
_TAKE_OVER_SECONDS: Final = 60.0
# A surplus process may retire for a minute, then it is killed.
_RETIRE_SECONDS: Final = 65.0
# The host's step: stop within the grace period, start, open the pool.
_REPLACE_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.2
_WORKER_STATUS: Final = ("worker", 8001)
# The container's host name, and which of its processes, since when.
_Identity = tuple[str, int, str]


def postgres(settings: OpsSettings, request: Request) -> int:
    """Restart PostgreSQL with every client waiting and none failing; return the exit code.

    Check, checkpoint, pause every PgBouncer, have the host restart the server, wait for a real
    query, resume. A dead-man in a container of its own holds the other end of the pause.
    """

    def work(operation: Operation) -> None:
        _restart_postgres(settings, request.directory, operation)

    try:
        return operate(request, "restart postgres", work, paused_seconds=None)
    finally:
        # Where the locks cannot be, no dead-man watches either.
        if request.directory.is_dir():
            pause_record.operation_over(request.directory)


def _restart_postgres(settings: OpsSettings, directory: Path, operation: Operation) -> None:
    with PostgresAdmin(settings) as admin:
        before = admin.started_at()

    def is_over(seconds: float) -> bool:
        with PostgresAdmin(settings, call_seconds=seconds) as admin:
            return admin.started_at() != before

    def change() -> None:
        operation.ask_host("restart-postgres")

    seconds = paused_change(settings, directory, operation, change, is_over)
    operation.ends_as(f"postgres restarted; clients waited for at most {seconds:.2f} s")


def app(
    settings: OpsSettings,
    request: Request,
    services: tuple[str, ...],
    *,
    new_api_container: bool,
) -> int:
    """Restart api and worker with no request failing and no task lost; return the exit code.

    An api process has a successor take over its socket; when the first is there, the api has as
    many processes as the settings say. Workers are restarted with their containers, one at a time:
    each ends what it has in hand or gives it back.
    """

    def work(operation: Operation) -> None:
        control = app_control.connect(settings)
        AppRestart(control, operation, new_api_container).run(services)

    return operate(request, f"restart {' and '.join(services)}", work)


@dataclass(frozen=True, slots=True)
class AppRestart:
    """What every step needs; `new_api_container`: the image or definition has changed."""

    control: Control
    operation: Operation
    new_api_container: bool

    def run(self, services: tuple[str, ...]) -> None:
        """Restart every process of the services, one after the other."""
        self._start_missing(services)
        there = self.control.targets(*services)
        present = self._require(services, there)
        known = {_identity(one) for one in present}
        for service in services:
            states = [one for one in present if one.service == service]
            if service == "api":
                self._restart_api(states, known, there)
            else:
                for before in states:
                    self._restart(before, known)
        self.operation.ends_as(f"every process of {' and '.join(services)} is new")

    def _restart_api(
        self, present: list[ProcessState], known: set[_Identity], there: tuple[Target, ...]
    ) -> None:
        """Replace each process that stays, then await those that come on top, and that others go.

        Once the first is replaced, the api has as many processes as its settings say. `there` are
        the processes from before, of which those beyond that number have to go.
        """
        old, wanted = frozenset(known), self.control.processes["api"]
        slots = range(self.control.port, self.control.port + wanted)
        # At least one: where nobody answers in these slots, nobody is known of in others.
        staying = [one for one in present if one.target.port in slots]
        if self.new_api_container:
            staying = present[:1]
        for before in staying:
            self._restart(before, known)
        for _ in range(wanted - len(staying)):
            began = time.monotonic()
            after = self._await_successor("api", "api", known, _REPLACE_SECONDS)
            self._finished(after, "started", began)

        # The new ones no longer count the surplus, which listen until their pools are closed.
        surplus = {one for one in there if one.port not in slots and not self.new_api_container}

        def stays(answer: Answer[ProcessState]) -> bool:
            if answer.target in surplus:
                return not isinstance(answer.raised, NotListeningError)
            return answer.value is None or _identity(answer.value) in old

        def old_ones() -> list[str]:
            asked = sorted({*self.control.targets("api"), *surplus})
            answers = everywhere(asked, self.control.state)
            return [str(one.target) for one in answers if stays(one)]

        seconds = _RETIRE_SECONDS if surplus else _SUCCEED_SECONDS
        if left := wait_until(old_ones, gone, seconds=seconds, every=_POLL_SECONDS):
            raise FailedError(f"still there, or not answering: {', '.join(left)}")

    def _restart(self, before: ProcessState, known: set[_Identity]) -> None:
        """Replace one process, or the container that it is in."""
        began, name = time.monotonic(), before.target.name
        self.operation.say(f"{name}: restarting")
        if before.service == "api" and not self.new_api_container:
            self.control.restart(before.target)
            after = self._await_successor(before.service, name, known, _SUCCEED_SECONDS)
        else:
            self.operation.ask_host(f"replace-{before.service}", before.target.container)
            after = self._await_successor(before.service, name, known, _REPLACE_SECONDS)
        self._finished(after, "restarted", began)

    def _finished(self, after: ProcessState, done: str, began: float) -> None:
        taken = time.monotonic() - began
        self.operation.say(f"{after.target.name}: new after {taken:.1f} s")
        self.operation.done(after.target.name, done, taken)
        if after.needs_restart:
            names = ", ".join(after.needs_restart)
            raise FailedError(f"{after.target}: {names} are not as in its settings file")

    def _start_missing(self, services: tuple[str, ...]) -> None:
        """Have the host start what an interrupted run left out, or a larger number asks for."""
        wanted = self.control.replicas
        few = [*self.control.absent(*services)]
        if not few:
            return
        self.operation.say(f"starting what is missing of {' and '.join(few)}")
        self.operation.ask_host("start", *(f"{one}={wanted[one]}" for one in few))
        wait_until(
            lambda: all(self._answering(one) >= wanted[one] for one in few),
            seconds=_TAKE_OVER_SECONDS,
            every=_POLL_SECONDS,
        )

    def _answering(self, service: str) -> int:
        answers = everywhere(self.control.targets(service), self.control.state)
        return len({answer.target.container for answer in answers if answer.ok})

    def _require(
        self, services: tuple[str, ...], there: tuple[Target, ...]
    ) -> tuple[ProcessState, ...]:
        """Return every process; refuse unless all are there and could start anew.

        One of the api's that is not up while another of its container is, is named and left out.
        """
        faults = [*self.control.absent(*services).values()]
        states: list[ProcessState] = []
        answers = everywhere(there, self.control.state)
        not_up = app_control.not_up(answers)
        for answer in answers:
            if answer in not_up:
                self.operation.warn(f"{answer.target}: {answer.error}; going on without it")
            elif answer.value is None:
                faults.append(f"{answer.target}: {answer.error}")
            elif answer.value.file_fault:
                faults.append(f"{answer.target}: {answer.value.file_fault}")
            else:
                states.append(answer.value)
        if faults:
            raise RefusedError("; ".join(faults))
        return tuple(states)

    def _await_successor(
        self, service: str, old: str, known: set[_Identity], seconds: float
    ) -> ProcessState:
        """Return the state of a process that was not known before, once it is ready.

        A new container need not have the name of the one whose place it takes.

        Raises:
            FailedError: not within `seconds`.

        """

        def successor() -> ProcessState | None:
            newcomers = self._newcomers(service, known)
            return next((one for one in newcomers if _is_ready(one)), None)

        after = wait_until(successor, seconds=seconds, every=_POLL_SECONDS)
        if after is None:
            raise FailedError(
                f"{old} has no successor that is ready after {seconds:g} s; "
                f"see: docker compose logs {service}"
            )
        known.add(_identity(after))
        return after

    def _newcomers(self, service: str, known: set[_Identity]) -> list[ProcessState]:
        answers = everywhere(self.control.targets(service), self.control.state)
        states = (answer.value for answer in answers)
        return [one for one in states if one and _identity(one) not in known]


def _identity(state: ProcessState) -> _Identity:
    return state.instance, state.pid, state.started_at


def _is_ready(state: ProcessState) -> bool:
    """Return True if a worker says that its threads and its pooled path work.

    Of the api every process answers on one port: one is ready when its pool is open. Its size is
    no sign of that: it counts connections that are being made. A busy process has them lent.
    """
    if state.service == "api":
        pool = state.pool
        return not pool.unreachable and pool.idle + pool.in_use >= pool.min_size
    host, port = _WORKER_STATUS
    found = next((one for one in resolve(host, port) if one.name == state.target.name), None)
    if found is None:
        return False
    try:
        answer = httpx.get(f"http://{found.address}:{port}/health/ready", trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == HTTPStatus.OK
