"""One operation that changes something: under the lock, its failures told as exit codes."""

from collections.abc import Callable
from pathlib import Path

import psycopg
from rich.console import Console

from infra.ops import exits
from infra.ops.app_control import ControlError
from infra.ops.bounded import TimedOutError
from infra.ops.ending import EndedBySignalError, Ending
from infra.ops.lock import LockHeldError, operation_lock
from infra.ops.targets import first_line


class RefusedError(Exception):
    """The moment is wrong; nothing was changed, or all was put back."""


class FailedError(Exception):
    """A step did not do what it should; the message says which and where to look."""


def operate(
    directory: Path, what: str, work: Callable[[Ending, Console], int], *, wait_seconds: float
) -> int:
    """Do the work under the lock of all operations; return its exit code, or the failure's."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    ending = Ending()
    try:
        with (
            ending.signals_raise(),
            operation_lock(directory, what, wait_seconds=wait_seconds),
        ):
            return work(ending, console)
    except LockHeldError as refusal:
        return _end(console, str(refusal), exits.REFUSED)
    except RefusedError as refusal:
        return _end(console, f"refused: {refusal}", exits.REFUSED)
    except (FailedError, ControlError) as error:
        return _end(console, str(error), exits.FAILED)
    except (psycopg.Error, TimedOutError, OSError) as error:
        return _end(console, f"{what}: {first_line(error)}", exits.FAILED)
    except EndedBySignalError as signal:
        return _end(console, f"{what}: ended by {signal}", exits.FAILED)


def _end(console: Console, text: str, code: int) -> int:
    console.print(text)
    return code
