"""What is wrong with an input, in a form an operator can act on."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong: the file (with its line where one line is to blame) and the message.

    The message names the setting or field, its value, the rule and what to do. It never
    carries the value of a secret.
    """

    file: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


class FaultyInputError(Exception):
    """The input has faults, all of which are listed; nothing was written."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))
