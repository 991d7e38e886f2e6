"""Read and edit files of assignments, one a line: the env file and the servers' extra files.

An env file has plain NAME=value lines, the subset that Compose reads alike. Unknown, misspelt and
bad values are refused, all at once.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from infra.config import catalogue, measured
from infra.config.faults import Fault
from infra.config.settings import BadValueError, Setting, UnavailableError, Value, Values

# Compose would expand, unquote or cut what contains one of these; the compiler would not.
_NOT_PLAIN = re.compile(r"[\s\"'`$#\\]")
_QUOTED = re.compile(r"'([^']*)'\Z")
# Not read as it stands by both servers, bare or between quotes: plain ASCII is.
_NOT_BARE, _NOT_QUOTED = re.compile(r"[^ -~]|[#;\"'\\]"), re.compile(r"[^ -~]|[\"\\]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One assignment: setting name, text as written, line number from 1.

    `mark`: the record of a measurement in the comment directly above it.
    """

    name: str
    text: str
    line: int
    mark: measured.Mark | None = None


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What a file assigns, and every syntax fault found in it."""

    name: str
    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Syntax:
    """How the lines of a file look.

    `name` is what a name matches, `advice` what follows on a line whose name does not; `value`
    returns the text of a value and the problem with it, or None.
    """

    form: str
    name: re.Pattern[str]
    advice: str
    value: Callable[[str, str], tuple[str, str | None]]
    comments: str = "#"
    spaced: bool = False


def _plain(key: str, text: str) -> tuple[str, str | None]:
    if match := _NOT_PLAIN.search(text):
        return text, (
            f"{key}={text[:40]} contains {match.group()!r}; write the bare value without spaces, "
            "quotes or a comment behind it"
        )
    return text, None


def _unquoted(key: str, text: str) -> tuple[str, str | None]:
    quoted = _QUOTED.match(text)
    value = quoted[1] if quoted else text
    if match := (_NOT_QUOTED if quoted else _NOT_BARE).search(value):
        return text, (
            f"{key} = {text[:40]} contains {match.group()!r}; write the value bare or between "
            "single quotes, with no comment behind it"
        )
    return value, None


ENV: Final = Syntax(
    "NAME=value",
    re.compile(r"[A-Z][A-Z0-9_]*\Z"),
    "setting name; write NAME=value without spaces or export",
    _plain,
)
# A line of a server's own configuration file.
PARAMETERS: Final = Syntax(
    "name = value",
    re.compile(r"[a-z_][a-z0-9_.]*\Z"),
    "parameter name; write name = value",
    _unquoted,
    comments="#;",
    spaced=True,
)


def read(path: Path, *, name: str, syntax: Syntax = ENV) -> EnvFile:
    """Read `path`; `name` is how faults call it. An unreadable file is a fault, not an error."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return EnvFile(name, (), (Fault(name, f"is not UTF-8 text (byte {error.start})"),))
    except OSError as error:
        return EnvFile(name, (), (Fault(name, f"cannot be read: {error.strerror}"),))
    if text.startswith("\ufeff"):
        fault = Fault(name, "starts with a byte order mark; save as UTF-8 without one", 1)
        return EnvFile(name, (), (fault,))
    return parse(text, name=name, syntax=syntax)


def parse(text: str, *, name: str, syntax: Syntax = ENV) -> EnvFile:
    """Parse the text of a file, collecting every fault instead of stopping at one."""
    entries: list[Entry] = []
    faults: list[Fault] = []
    above = ""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in syntax.comments:
            above = stripped
            continue
        entry, problem = _parse_line(line, number, syntax)
        if entry:
            entry = replace(entry, mark=measured.parse(above))
        above = ""
        if problem:
            faults.append(Fault(name, problem, number))
        if entry:
            entries.append(entry)
    faults.extend(_duplicates(entries, name))
    return EnvFile(name, tuple(entries), tuple(faults))


def _parse_line(line: str, number: int, syntax: Syntax) -> tuple[Entry | None, str | None]:
    """Return the assignment (also when only its text is faulty) and the problem, if any."""
    key, equals, text = line.removesuffix("\r").partition("=")
    if not equals:
        return None, f"{key.strip()[:40]!r} is not an assignment; write {syntax.form}"
    if syntax.spaced:
        key, text = key.strip().lower(), text.strip()
    if not syntax.name.match(key):
        return None, f"{key[:40]!r} is not a {syntax.advice}"
    if line.endswith("\r"):
        return Entry(key, text, number), f"{key}: the line ends in CR LF; save with LF line ends"
    if text == "":
        return Entry(key, text, number), f"{key} has no value; give one or remove the line"
    text, problem = syntax.value(key, text)
    return Entry(key, text, number), problem


def _duplicates(entries: list[Entry], name: str) -> Iterator[Fault]:
    first: dict[str, Entry] = {}
    for entry in entries:
        seen = first.setdefault(entry.name, entry)
        if seen is not entry:
            message = f"{entry.name} is already set on line {seen.line}; keep one of the two"
            yield Fault(name, message, entry.line)


def edit(
    text: str,
    changes: Mapping[str, object],
    records: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the text of an env file with other values; what it leaves out is added at its end.

    `records` are comment lines of measurements, by setting: each comes directly above its
    setting, in place of an earlier one. Everything else stays as it is.
    """
    missing = dict(changes)
    lines: list[str] = []
    for line in text.splitlines():
        name = line.partition("=")[0]
        if name in missing:
            if lines and lines[-1].startswith(measured.RECORDS):
                lines.pop()
            lines += _assignment(name, missing.pop(name), records)
        else:
            lines.append(line)
    for name, value in missing.items():
        lines += _assignment(name, value, records)
    return "\n".join(lines) + "\n"


def _assignment(name: str, value: object, records: Mapping[str, str]) -> list[str]:
    return [*([records[name]] if name in records else []), f"{name}={value}"]


@dataclass(frozen=True, slots=True)
class Assigned:
    """The usable values and every fault. A faulty setting has no value at all."""

    values: Values
    faults: tuple[Fault, ...]


def assign(
    file: EnvFile, table: Mapping[str, Setting] | None = None, *, overlay: bool = False
) -> Assigned:
    """Type every entry of `file`; settings it leaves out take their default.

    `table` are the settings by their names in the file, those of the env file when not given. An
    `overlay` is no whole env file: what Compose reads may be missing from it.
    """
    settings = catalogue.by_name() if table is None else table
    faults = list(file.faults)
    values: dict[str, Value] = {}
    unusable = _faulty_names(file)
    for entry in file.entries:
        if entry.name not in settings:
            faults.append(_unknown(entry, settings, file.name))
            unusable.update(_nearest(entry.name, settings))
        elif entry.name not in unusable:
            _parse_into(values, settings[entry.name], entry, file.name, faults)
            unusable.update({entry.name} if settings[entry.name].name not in values else ())
    if not overlay:
        faults.extend(_missing(file, settings, unusable))
    derived = _fill(values, settings, unusable)
    known = [entry for entry in file.entries if entry.name in settings]
    marks = {settings[entry.name].name: entry.mark for entry in known if entry.mark}
    # In the order of the table, whatever the file's: the record of a compile stays the same.
    ordered = {one.name: values[one.name] for one in settings.values() if one.name in values}
    return Assigned(Values(ordered, marks, derived), tuple(faults))


def _fill(
    values: dict[str, Value], settings: Mapping[str, Setting], unusable: set[str]
) -> dict[str, str]:
    """Add what the file leaves out; return the formulas of what was derived."""
    absent = [
        setting
        for name, setting in settings.items()
        if setting.name not in values and name not in unusable
    ]
    values.update(
        {setting.name: setting.default for setting in absent if setting.derivation is None}
    )
    derived = {}
    for setting in absent:
        if setting.derivation is None or set(setting.derivation.sources) - values.keys():
            continue
        try:
            values[setting.name] = setting.derived(Values(values))
        except UnavailableError:
            continue
        derived[setting.name] = setting.derivation.formula
    return derived


def _parse_into(
    values: dict[str, Value], setting: Setting, entry: Entry, file: str, faults: list[Fault]
) -> None:
    try:
        value = setting.parse(entry.text)
    except BadValueError as error:
        faults.append(Fault(file, str(error), entry.line))
        return
    if setting.left_out and value == setting.default:
        message = f"{setting.name}={entry.text} is what holds without the line; remove the line"
        faults.append(Fault(file, message, entry.line))
    else:
        values[setting.name] = value


def _faulty_names(file: EnvFile) -> set[str]:
    lines = {fault.line for fault in file.faults}
    return {entry.name for entry in file.entries if entry.line in lines}


def _nearest(name: str, settings: Mapping[str, Setting]) -> list[str]:
    return difflib.get_close_matches(name.upper(), settings, n=1, cutoff=0.7)


def _unknown(entry: Entry, settings: Mapping[str, Setting], file: str) -> Fault:
    near = _nearest(entry.name, settings)
    advice = f"did you mean {near[0]}?" if near else "remove it"
    return Fault(file, f"{entry.name}={entry.text[:40]} is not a setting; {advice}", entry.line)


def _missing(file: EnvFile, settings: Mapping[str, Setting], unusable: set[str]) -> list[Fault]:
    """Compose reads some settings from the file itself and knows no defaults."""
    present = {entry.name for entry in file.entries} | unusable
    return [
        Fault(
            file.name,
            f"{setting.name} is missing; Compose needs it: add {setting.name}={setting.default}",
        )
        for setting in settings.values()
        if setting.compose and setting.name not in present and not _unreadable(file)
    ]


def _unreadable(file: EnvFile) -> bool:
    return bool(file.faults) and not file.entries
