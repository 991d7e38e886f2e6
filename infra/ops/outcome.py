"""What came of a command: exit code, errors, lines for a person or the document of `--json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum

from rich.console import Console


class Exit(IntEnum):
    """Exit codes of the operator commands."""

    OK = 0
    # A process differs from what was asked, did not answer, or a step failed.
    FAILED = 1
    # The env file or the arguments are at fault; nothing was changed.
    BAD_INPUT = 2
    # Another operation is under way, or a precondition is not met; nothing was changed.
    REFUSED = 3
    # Done as far as it can be done live; the rest needs containers restarted or recreated.
    NEEDS_RESTART = 4


class RefusedError(Exception):
    """A precondition is not met; nothing was changed, or all was put back."""


class FailedError(Exception):
    """A step did not do what it should; the message says which and where to look."""


@dataclass(slots=True)
class Outcome:
    """What every command says at its end; a command adds fields of its own.

    `faults` say why the exit code is not 0, `steps` what was done in which order, `state` what
    holds now.
    """

    exit_code: int = Exit.OK
    faults: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    state: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the outcome as JSON holds it."""
        return asdict(self)


def report(outcome: Outcome, *, as_json: bool) -> int:
    """Print what came of a command; return its exit code."""
    if as_json:
        print_document(outcome.as_dict())
        return outcome.exit_code
    done, failed = plain_console(), plain_console(stderr=True)
    for fault in outcome.faults:
        failed.print(fault)
    if outcome.state:
        (failed if outcome.faults else done).print(outcome.state)
    return outcome.exit_code


def print_document(document: Mapping[str, object]) -> None:
    """Print the one document of a command that was asked for JSON."""
    print(json.dumps(document, indent=2))  # noqa: T201  # JSON must not be wrapped


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints lines as they are: no markup, no colours, no wrapping."""
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)
