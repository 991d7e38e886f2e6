"""Restart api and worker with no request failing and no task lost, and read their settings back.

An api process has a successor take over its socket. Workers are restarted with their
containers, one at a time: each ends what it has in hand or gives it back.
"""

import time
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from infra.ops import app_control
from infra.ops.app_control import Control, ProcessState
from infra.ops.operation import FailedError, Operation, RefusedError, Request, operate
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere, resolve

# A successor listens at once; its predecessor answers here for a moment longer.
SUCCEED_SECONDS = 20.0
# What an interrupted run has left out must start.
TAKE_OVER_SECONDS = 60.0
# The host's step: stop within the grace period, start, open the pool.
REPLACE_SECONDS = 120.0
POLL_SECONDS = 0.2
WORKER_STATUS = ("worker", 8001)
# The container's host name, and when the process started.
Identity = tuple[str, str]


def restart(
    settings: OpsSettings,
    request: Request,
    services: tuple[str, ...],
    *,
    new_api_container: bool,
) -> int:
    """Restart the services; return the exit code."""

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
        present = self._require(services)
        known = {_identity(one) for one in present}
        for before in present:
            began = time.monotonic()
            self.operation.say(f"{before.target.name}: restarting")
            if before.service == "api" and not self.new_api_container:
                self.control.restart(before.target)
                after = self._await_successor(before, known, SUCCEED_SECONDS)
            else:
                self.operation.ask_host(f"replace-{before.service}", before.target.name)
                after = self._await_successor(before, known, REPLACE_SECONDS)
            known.add(_identity(after))
            taken = time.monotonic() - began
            self.operation.say(f"{after.target.name}: new after {taken:.1f} s")
            self.operation.done(after.target.name, "restarted", taken)
            self._check_settings(after)
        self.operation.ends_as(f"every process of {' and '.join(services)} is new")

    def _start_missing(self, services: tuple[str, ...]) -> None:
        """Have the host start what an interrupted run left out, or a larger number asks for."""
        wanted = self.control.processes
        few = [one for one in services if len(self.control.targets(one)) < wanted[one]]
        if not few:
            return
        self.operation.say(f"starting what is missing of {' and '.join(few)}")
        self.operation.ask_host("start", *(f"{one}={wanted[one]}" for one in few))
        deadline = time.monotonic() + TAKE_OVER_SECONDS
        while time.monotonic() < deadline and any(
            self._answering(one) < wanted[one] for one in few
        ):
            time.sleep(POLL_SECONDS)

    def _answering(self, service: str) -> int:
        answers = everywhere(self.control.targets(service), self.control.state)
        return sum(answer.ok for answer in answers)

    def _require(self, services: tuple[str, ...]) -> tuple[ProcessState, ...]:
        """Return every process; refuse unless all are there and could start anew."""
        faults: list[str] = []
        states: list[ProcessState] = []
        for service in services:
            targets = self.control.targets(service)
            wanted = self.control.processes[service]
            if len(targets) < wanted:
                faults.append(f"{len(targets)} of {wanted} {service} processes have an address")
            for answer in everywhere(targets, self.control.state):
                if answer.value is None:
                    faults.append(answer.error)
                elif answer.value.file_fault:
                    faults.append(f"{answer.target}: {answer.value.file_fault}")
                else:
                    states.append(answer.value)
        if faults:
            raise RefusedError("; ".join(faults))
        return tuple(states)

    def _await_successor(
        self, before: ProcessState, known: set[Identity], seconds: float
    ) -> ProcessState:
        """Return the state of a process that was not known before, once it is ready.

        A new container need not have the name of the one whose place it takes.

        Raises:
            FailedError: not within `seconds`.

        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            after = self._newcomer(before.service, known)
            if after is not None and (after.service == "api" or _is_ready(after.target)):
                return after
            time.sleep(POLL_SECONDS)
        raise FailedError(
            f"{before.target.name} has no successor that is ready after {seconds:g} s; "
            f"see: docker compose logs {before.service}"
        )

    def _newcomer(self, service: str, known: set[Identity]) -> ProcessState | None:
        answers = everywhere(self.control.targets(service), self.control.state)
        states = (answer.value for answer in answers)
        return next((one for one in states if one and _identity(one) not in known), None)

    def _check_settings(self, after: ProcessState) -> None:
        if after.needs_restart:
            names = ", ".join(after.needs_restart)
            raise FailedError(f"{after.target}: {names} are not as in its settings file")


def _identity(state: ProcessState) -> Identity:
    return state.instance, state.started_at


def _is_ready(worker: Target) -> bool:
    """Tell whether a worker says that its threads and its pooled path work."""
    host, port = WORKER_STATUS
    found = next((one for one in resolve(host, port) if one.name == worker.name), None)
    if found is None:
        return False
    try:
        answer = httpx.get(f"http://{found.address}:{port}/health/ready", trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == HTTPStatus.OK
