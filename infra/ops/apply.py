"""Put the env file in force on the running stack: checked first, in steps, and read back.

What cannot be done live is left as it is, in the compiled files too, so that a container that
restarts by itself comes back as the budget expects it.
"""

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.config.build import Compiled, compile_values
from infra.config.faults import FaultyInputError
from infra.config.settings import Values
from infra.config.write import write_files, write_secrets
from infra.ops import app_control, exits, in_force, ordering
from infra.ops.ending import EndedBySignalError
from infra.ops.in_force import InForce
from infra.ops.ordering import LivePart, Step
from infra.ops.outcome import Outcome
from infra.ops.plan import Plan
from infra.ops.readback import Deviation, deviations
from infra.ops.reloading import Reloader, StepError
from infra.ops.rotation import pending
from infra.ops.settings import OpsSettings
from infra.ops.targets import first_line

OLD_SERVES: Final = "nothing was changed: the old configuration is in the files and in force"
# After a reload every process has its values at once, or never.
_READ_BACK_SECONDS: Final = 5.0
_SLACK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the compiled files and the secrets are."""

    out: Path
    secrets: Path


@dataclass(slots=True)
class ApplyOutcome(Outcome):
    """What came of an apply, and what it leaves to restarts."""

    waiting: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    restart: tuple[str, ...] = ()
    recreate: tuple[str, ...] = ()
    deviations: tuple[Deviation, ...] = ()


class Apply:
    """One apply of a plan without faults, under the operation lock."""

    def __init__(
        self, plan: Plan, settings: OpsSettings, paths: Paths, say: Callable[[str], None]
    ) -> None:
        if plan.before is None:
            raise ValueError("nothing was compiled yet")
        self._plan = plan
        self._before = plan.before.values
        self._settings = settings
        self._paths = paths
        self._say_line = say
        self._outcome = ApplyOutcome()
        self._part: LivePart = ordering.live_part(self._before, plan.values)

    def run(self, *, prepare_restart: bool = False) -> ApplyOutcome:
        """Do all that is live and read it back; return what came of it.

        With `prepare_restart` the files are left as the env file wants them, ready for the
        restarts that the outcome names.
        """
        refusal = self._refusal()
        if refusal:
            return self._ended(exits.FAILED, refusal, OLD_SERVES)
        try:
            final = self._compile(self._part.values)
            self._compile(self._plan.values)
        except FaultyInputError as faulty:
            lines = [str(fault) for fault in faulty.faults]
            return self._ended(exits.BAD_INPUT, lines, OLD_SERVES)
        if changed := _changed_passwords(final):
            return self._ended(exits.REFUSED, changed, OLD_SERVES)
        write_secrets(final.new_secrets, self._paths.secrets)
        try:
            self._go_through()
        except (StepError, OSError, EndedBySignalError) as problem:
            return self._undone(problem)
        try:
            return self._verdict(prepare_restart=prepare_restart)
        except EndedBySignalError as signal:
            state = "the new configuration is in force but was not read back"
            return self._ended(exits.FAILED, [f"ended by {signal}"], state)

    def _refusal(self) -> list[str]:
        found = self._plan.found
        if found is None or found.nothing_runs:
            return ["no process has an address: nothing runs; `make up` compiles and starts"]
        if what := pending.unfinished(self._paths.secrets):
            return [f"a rotation of {what} is not finished; run it again: make rotate-{what}"]
        return found.faults()

    def _go_through(self) -> None:
        reloader = self._reloader()
        for step in ordering.steps(self._before, self._part.values):
            self._take(step, reloader)

    def _take(self, step: Step, reloader: Reloader) -> None:
        self._write(step.values)
        if step.downwards:
            reloader.downwards(step.values)
        else:
            reloader.upwards(step.values)

    def _reloader(self) -> Reloader:
        # The longest that a connection can stay lent, a query run, or a session stay open.
        names = ("API_REQUEST_DEADLINE_SECONDS", "WORKER_BATCH_DEADLINE_SECONDS")
        longest = max(float(one.number(name)) for one in (self._before,) for name in names)
        control = app_control.connect(self._settings)
        return Reloader(
            self._settings, control, self._paths.out, longest + _SLACK_SECONDS, self._say
        )

    def _compile(self, values: Values) -> Compiled:
        now = datetime.datetime.now(datetime.UTC)
        return compile_values(values, self._paths.secrets, now=now)

    def _write(self, values: Values) -> None:
        written = write_files(self._compile(values).files, self._paths.out)
        self._say(f"files: {len(written)} written")

    def _undone(self, problem: BaseException) -> ApplyOutcome:
        """Put the old configuration back, in the files and on every process that answers."""
        lines = list(problem.lines) if isinstance(problem, StepError) else [first_line(problem)]
        self._say("a step failed; going back to the old configuration")
        try:
            lines += [line for line in self._back() if line not in lines]
        except (OSError, FaultyInputError) as error:
            state = f"the old files could not be put back: {first_line(error)}"
            return self._ended(exits.FAILED, lines, state)
        found = in_force.look(self._settings).expecting(self._plan.values)
        self._outcome.deviations = deviations(self._before, found)
        return self._ended(exits.FAILED, lines, _state_after(found, self._outcome.deviations))

    def _back(self) -> list[str]:
        """Shrink what has grown, then grow what has shrunk; return what did not go along."""
        reloader = self._reloader()
        low = ordering.smaller(self._before, self._part.values)
        self._write(low)
        down = (reloader.app, reloader.pgbouncer, reloader.postgres)
        lines = [line for tier in down for line in _attempt(tier, low)]
        self._write(self._before)
        return lines + [line for tier in reversed(down) for line in _attempt(tier, self._before)]

    def _verdict(self, *, prepare_restart: bool) -> ApplyOutcome:
        found, differing = self._read_back()
        outcome = self._outcome
        outcome.deviations = tuple(differing)
        outcome.waiting, outcome.held = list(self._part.waiting), list(self._part.held)
        outcome.restart, outcome.recreate = ordering.tiers_to_restart(self._part.waiting)
        wrong = found.faults() + [str(one) for one in differing if not one.needs_restart]
        if wrong:
            return self._ended(exits.FAILED, wrong, "the new configuration is in the files")
        if not (self._part.waiting or self._part.held or differing):
            return self._ended(exits.OK, [], "in force on every process, read back")
        if prepare_restart:
            self._write(self._plan.values)
        return self._ended(exits.NEEDS_RESTART, [], "what is live is in force; the rest waits")

    def _read_back(self) -> tuple[InForce, tuple[Deviation, ...]]:
        until = time.monotonic() + _READ_BACK_SECONDS
        while True:
            found = in_force.look(self._settings).expecting(self._plan.values)
            differing = deviations(self._part.values, found)
            settled = not found.faults() and all(one.needs_restart for one in differing)
            if settled or time.monotonic() > until:
                return found, differing

    def _say(self, line: str) -> None:
        self._outcome.steps.append(line)
        self._say_line(line)

    def _ended(self, code: int, faults: list[str], state: str) -> ApplyOutcome:
        self._outcome.exit_code = code
        self._outcome.faults = faults
        self._outcome.state = state
        return self._outcome


def _attempt(tier: Callable[[Values], None], values: Values) -> list[str]:
    try:
        tier(values)
    except StepError as problem:
        return list(problem.lines)
    return []


def _changed_passwords(compiled: Compiled) -> list[str]:
    """Return a line for each password that is not the one in force.

    A verifier is made anew only when its password is another; PostgreSQL has the old one.
    """
    names = sorted(name for name in compiled.new_secrets if name.endswith(".scram"))
    return [
        f"{name.removesuffix('.scram')}.password is not the password that PostgreSQL has; "
        "apply changes no password; make it take effect: make rotate-passwords"
        for name in names
    ]


def _state_after(found: InForce, differing: tuple[Deviation, ...]) -> str:
    live = [one for one in differing if not one.needs_restart]
    if not live and not found.faults():
        return "the old configuration is back, in the files and in force on every process"
    silent = [*found.faults(), *(str(one) for one in live)]
    return (
        "the old configuration is back in the files and on every process that answers; "
        f"not certain: {'; '.join(silent)}"
    )
