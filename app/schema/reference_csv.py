"""Reads a reference CSV file into records with line numbers; needs no database.

The file is UTF-8 (a byte order mark is fine), comma-separated, quoted with `"`, and has a
header of column names. An empty field is NULL. Blank lines carry nothing and are passed
over. A list is written as a PostgreSQL array literal (`"{0.1,0.2}"`) or with semicolons
(`0.1;0.2`); that is decided where the text is cast, not here.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

SHOWN_MAX_CHARACTERS = 60
REASON_MAX_CHARACTERS = 300
FAULTS_KEPT_MAX = 1000

Record = tuple[int, list[str | None]]


class ReferenceFileError(Exception):
    """The file or its header cannot be used at all; the message is the report, a line a fault."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the file. `column` is empty when a whole line is at fault."""

    line: int
    column: str
    value: str | None
    reason: str

    def text(self, path: Path) -> str:
        """Return the report line: file:line: column NAME: value 'x': reason."""
        reason = printable(self.reason, REASON_MAX_CHARACTERS)
        if not self.column:
            return f"{path}:{self.line}: {reason}"
        return f"{path}:{self.line}: column {self.column}: {shown(self.value)}: {reason}"


@dataclass(slots=True)
class FaultList:
    """Faults in the order of discovery: the first thousand are kept, all are counted."""

    kept: list[Fault] = field(default_factory=list)
    total: int = 0

    def add(self, line: int, reason: str, column: str = "", value: str | None = None) -> None:
        """Count a fault, and keep it while there is room."""
        self.total += 1
        if len(self.kept) < FAULTS_KEPT_MAX:
            self.kept.append(Fault(line, column, value, reason))


@dataclass(frozen=True, slots=True)
class Column:
    """What the header check must know of a table's column."""

    name: str
    required: bool


def shown(value: str | None) -> str:
    """Return a value for a report: quoted, control characters escaped, shortened."""
    return "no value" if value is None else f"value '{printable(value, SHOWN_MAX_CHARACTERS)}'"


def printable(text: str, characters_max: int) -> str:
    """Return text with control characters escaped, cut to a length, fit for a terminal."""
    cut = text if len(text) <= characters_max else text[:characters_max] + "..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut)


def nearest(name: str, known: list[str]) -> str:
    """Return a hint: the closest known name, or else all of them."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


class ReferenceFile:
    """An open CSV file: its header, then its records.

    Faults of single lines go to `faults`, and reading goes on with the next line.
    """

    def __init__(self, path: Path, stream: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self.path = path
        self.faults = FaultList()
        self._stream = stream
        self._on_bytes = on_bytes
        self._undecodable: dict[int, str] = {}
        self._reader = csv.reader(self._lines(), strict=True)

    def _lines(self) -> Iterator[str]:
        for number, raw in enumerate(self._stream, start=1):
            self._on_bytes(len(raw))
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                bad = raw[error.start]
                self._undecodable[number] = f"not UTF-8: byte {bad:#04x} at {error.start + 1}"
                yield raw.decode("utf-8", errors="replace")

    def header(self, columns: list[Column]) -> list[str]:
        """Read and check the first line; raises ReferenceFileError with all its faults."""
        try:
            names = [name.strip() for name in next(self._reader)]
        except StopIteration:
            known = ",".join(column.name for column in columns)
            raise ReferenceFileError(f"{self.path}: is empty; line 1 must be {known}") from None
        except csv.Error as error:
            raise ReferenceFileError(f"{self.path}:1: header: {error}") from error
        faults = list(header_faults(names, columns))
        faults += self._undecodable.values()
        if faults:
            raise ReferenceFileError(
                "\n".join(f"{self.path}:1: header: {fault}" for fault in faults)
            )
        return names

    def records(self, width: int) -> Iterator[Record]:
        """Yield the sound records as (first line, fields); an empty field is None."""
        while True:
            line = self._reader.line_num + 1
            try:
                fields = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                self.faults.add(line, f"{error}; is a quote left open? Reading ends here")
                return
            reason = self._fault_of(line, fields, width)
            if reason:
                self.faults.add(line, reason)
            elif fields:
                yield line, [value or None for value in fields]

    def _fault_of(self, line: int, fields: list[str], width: int) -> str:
        for number in range(line, self._reader.line_num + 1):
            if number in self._undecodable:
                return self._undecodable.pop(number)
        if fields and len(fields) != width:
            return f"has {len(fields)} fields where the header has {width}"
        if any("\0" in value for value in fields):
            return "holds a NUL character, which no text of the database can"
        return ""


def header_faults(names: list[str], columns: list[Column]) -> Iterator[str]:
    """Yield what is wrong with a header; nothing when the table can take it."""
    known = [column.name for column in columns]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        yield f"{shown(names[0])}: fields must be separated by commas"
        return
    for position, name in enumerate(names, start=1):
        if not name:
            yield f"column {position} has no name"
        elif name not in known:
            yield f"unknown column '{printable(name, 60)}'; {nearest(name, known)}"
        elif name in names[: position - 1]:
            yield f"column {name} is named twice"
    for column in columns:
        if column.required and column.name not in names:
            yield f"column {column.name} is missing, and the table needs it"
