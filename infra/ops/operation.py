"""One operation that changes something: under the lock, its outcome told to person or program."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from infra.ops import exits, host_step
from infra.ops.app_control import ControlError
from infra.ops.bounded import TimedOutError
from infra.ops.ending import EndedBySignalError, Ending
from infra.ops.lock import LockHeldError, operation_lock
from infra.ops.outcome import Outcome, plain_console, report
from infra.ops.targets import first_line

# Of durations that are told: more digits would say more than was measured.
_DIGITS = 3


class RefusedError(Exception):
    """The moment is wrong; nothing was changed, or all was put back."""


class FailedError(Exception):
    """A step did not do what it should; the message says which and where to look."""


@dataclass(frozen=True, slots=True)
class Request:
    """How an operation was asked for: where the locks are, how long to wait, as JSON or not."""

    directory: Path
    wait_seconds: float = 0.0
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What was done to one process, and how long it took where that is known."""

    process: str
    done: str
    seconds: float | None = None


@dataclass(slots=True)
class OperationOutcome(Outcome):
    """What came of one operation; `details` are the fields that only this operation has."""

    operation: str = ""
    warnings: list[str] = field(default_factory=list)
    processes: list[Done] = field(default_factory=list)
    seconds: float = 0.0
    details: dict[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the outcome as JSON holds it, the details beside the other fields."""
        # Not super(): a class with slots is another one than its methods were written in.
        document = Outcome.as_dict(self)
        del document["details"]
        return document | self.details


class Operation:
    """What the work is given: it tells here what it does, and asks the host here."""

    def __init__(self, what: str, *, as_json: bool = False) -> None:
        self.ending = Ending()
        self.outcome = OperationOutcome(operation=what)
        self._as_json = as_json
        self._began = time.monotonic()
        self._console = plain_console(stderr=True)

    def say(self, line: str) -> None:
        """Tell what happens now."""
        self.outcome.steps.append(line)
        self._console.print(line)

    def warn(self, line: str) -> None:
        """Tell what somebody should look at, though the operation goes on; once."""
        if line not in self.outcome.warnings:
            self.outcome.warnings.append(line)
            self._console.print(f"warning: {line}")

    def done(self, process: str, what: str, seconds: float | None = None) -> None:
        """Note what was done to a process."""
        rounded = None if seconds is None else round(seconds, _DIGITS)
        self.outcome.processes.append(Done(process, what, rounded))

    def note(self, **details: object) -> None:
        """Set fields that only this operation has."""
        self.outcome.details |= {
            name: round(value, _DIGITS) if isinstance(value, float) else value
            for name, value in details.items()
        }

    def ends_as(self, state: str) -> None:
        """Tell what holds when the operation is over."""
        self.outcome.state = state

    def fail(self, code: int, *faults: str) -> None:
        """Have the operation end with this exit code, and say why."""
        self.outcome.exit_code = code
        self.outcome.faults += faults

    def ask_host(self, step: str, *arguments: str) -> None:
        """Ask the script on the host for a step, by name."""
        host_step.ask_host(step, *arguments, as_json=self._as_json)

    def over(self) -> int:
        """Print the outcome; return the exit code."""
        self.outcome.seconds = round(time.monotonic() - self._began, _DIGITS)
        return report(self.outcome, as_json=self._as_json)


def operate(
    request: Request, what: str, work: Callable[[Operation], None], **details: object
) -> int:
    """Do the work under the lock of all operations; print what came of it; return the exit code.

    `details` are the values of the operation's own fields for as long as nothing is known.
    """
    operation = Operation(what, as_json=request.as_json)
    operation.note(**details)
    try:
        with (
            operation.ending.signals_raise(),
            operation_lock(request.directory, what, wait_seconds=request.wait_seconds),
        ):
            work(operation)
    except LockHeldError as refusal:
        operation.fail(exits.REFUSED, str(refusal))
    except RefusedError as refusal:
        operation.fail(exits.REFUSED, f"refused: {refusal}")
    except (FailedError, ControlError) as error:
        operation.fail(exits.FAILED, str(error))
    except (psycopg.Error, TimedOutError, OSError) as error:
        operation.fail(exits.FAILED, f"{what}: {first_line(error)}")
    except EndedBySignalError as signal:
        operation.fail(exits.FAILED, f"{what}: ended by {signal}")
    return operation.over()
