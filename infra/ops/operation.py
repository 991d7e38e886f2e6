"""One operation that changes something: its lock, its signals, its steps, its outcome.

Every such command is a function of an `Operation`, run by `operate`: one at a time under a lock
that the kernel releases when its holder dies, ended by the first signal as by an exception, with
one exit code and one outcome for a person or a program.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Self

import psycopg
from rich.console import Console

from infra.config.faults import FaultyInputError
from infra.config.lock import LockHeldError, operation_lock
from infra.ops.clients.processes import TimedOutError, first_line
from infra.ops.outcome import Exit, FailedError, Outcome, RefusedError, plain_console, report

# Of durations that are printed: more digits would say more than was measured.
_DIGITS: Final = 3
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Set by whoever holds the other end of standard input for as long as it lives.
LIFELINE: Final = "SLUICE_LIFELINE"


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the compiled files and the secrets are."""

    out: Path
    secrets: Path


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
    """What the work is given: it says here what it does, and asks the host here.

    `progress` is where its lines go; standard error when not given.
    """

    def __init__(
        self, what: str, *, as_json: bool = False, progress: Console | None = None
    ) -> None:
        self.ending = Ending()
        self.outcome = OperationOutcome(operation=what)
        self._as_json = as_json
        self._began = time.monotonic()
        self._console = progress or plain_console(stderr=True)

    def say(self, line: str) -> None:
        """Say what happens now: a step of the outcome."""
        self.outcome.steps.append(line)
        self._console.print(line)

    def show(self, line: str) -> None:
        """Print a line that is in the outcome in another form."""
        self._console.print(line)

    def warn(self, line: str) -> None:
        """Say, once, what deserves a look, though the operation goes on."""
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
        """Say what holds when the operation is over."""
        self.outcome.state = state

    def fail(self, code: int, *faults: str) -> None:
        """Have the operation end with this exit code, and say why."""
        self.outcome.exit_code = code
        self.outcome.faults += faults

    def ask_host(self, step: str, *arguments: str) -> None:
        """Ask the script on the host for a step, by name: no container has the Docker socket.

        The script does it when it reads the line; nothing is sent back, so the operation sees
        for itself that it is done. Standard output is the script's to read, unless it is kept
        for a JSON document.
        """
        stream = sys.stderr if self._as_json else sys.stdout
        print(" ".join(("host:", step, *arguments)), file=stream, flush=True)

    def over(self) -> int:
        """Print the outcome; return the exit code."""
        self.outcome.seconds = round(time.monotonic() - self._began, _DIGITS)
        return report(self.outcome, as_json=self._as_json)


def operate(
    request: Request,
    what: str,
    work: Callable[[Operation], None],
    *,
    progress: Console | None = None,
    state: str = "",
    **details: object,
) -> int:
    """Do the work under the lock of all operations; print what came of it; return the exit code.

    `state` holds, and `details` are the values of the operation's own fields, for as long as
    the work says nothing else.
    """
    operation = Operation(what, as_json=request.as_json, progress=progress)
    operation.ends_as(state)
    operation.note(**details)
    try:
        with (
            operation.ending.signals_raise(),
            operation_lock(request.directory, what, wait_seconds=request.wait_seconds),
        ):
            work(operation)
    except LockHeldError as refusal:
        operation.fail(Exit.REFUSED, str(refusal))
    except RefusedError as refusal:
        operation.fail(Exit.REFUSED, f"refused: {refusal}")
    except FaultyInputError as faulty:
        operation.fail(Exit.BAD_INPUT, *map(str, faulty.faults))
        operation.ends_as(operation.outcome.state or "nothing was changed")
    except FailedError as error:
        operation.fail(Exit.FAILED, str(error))
    except (psycopg.Error, TimedOutError, OSError) as error:
        operation.fail(Exit.FAILED, f"{what}: {first_line(error)}")
    except EndedBySignalError as signalled:
        operation.fail(Exit.FAILED, f"{what}: ended by {signalled}")
    return operation.over()


class EndedBySignalError(BaseException):
    """A signal to end has come; not an Exception, so that no handler takes it for a fault."""


class Ending:
    """Turns the first signal to end into EndedBySignalError, in a `with` block.

    What a command has begun is put back before it ends. As process 1 of its container it would
    otherwise not notice SIGTERM at all. A caller that was killed sends none: where it gave a
    lifeline, the end of standard input is a SIGHUP. Further signals are ignored.
    """

    def __init__(self) -> None:
        self._shielded = False
        self._signal = ""

    @contextmanager
    def signals_raise(self) -> Iterator[Self]:
        """Catch signals for the block; use it in the main thread."""
        before = {one: signal.signal(one, self._end) for one in _SIGNALS}
        if os.environ.get(LIFELINE):
            threading.Thread(target=_watch_caller, name="lifeline", daemon=True).start()
        try:
            yield self
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let the block finish first: a signal meanwhile is raised at its end."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._signal:
            self._raise()

    def _end(self, number: int, _: FrameType | None) -> None:
        first, self._signal = not self._signal, signal.Signals(number).name
        if first and not self._shielded:
            self._raise()

    def _raise(self) -> None:
        raise EndedBySignalError(self._signal)


def _watch_caller() -> None:
    """Have the main thread end when the caller has; nothing is ever sent."""
    while os.read(0, 1):
        pass
    # To that thread by name: another one would not be woken from what it waits for.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
