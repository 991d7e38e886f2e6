"""From the entries of an env file to typed values: unknown, misspelt and bad ones refused."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from infra.config import catalogue
from infra.config.envfile import Entry, EnvFile
from infra.config.faults import Fault
from infra.config.settings import BadValueError, Setting, UnavailableError, Value, Values


@dataclass(frozen=True, slots=True)
class Assigned:
    """The usable values and every fault. A faulty setting has no value at all."""

    values: Values
    faults: tuple[Fault, ...]


def assign(file: EnvFile, *, overlay: bool = False) -> Assigned:
    """Type every entry of `file`; settings it leaves out take their default.

    An `overlay` is no whole env file: what Compose reads may be missing from it.
    """
    settings = catalogue.by_name()
    faults = list(file.faults)
    values: dict[str, Value] = {}
    unusable = _faulty_names(file)
    for entry in file.entries:
        if entry.name not in settings:
            faults.append(_unknown(entry, settings, file.name))
            unusable.update(_nearest(entry.name, settings))
        elif entry.name not in unusable:
            _parse_into(values, settings[entry.name], entry, file.name, faults)
            unusable.update({entry.name} - values.keys())
    if not overlay:
        faults.extend(_missing(file, settings, unusable))
    derived = _fill(values, settings, unusable)
    marks = {entry.name: entry.mark for entry in file.entries if entry.mark}
    # In the order of the table, whatever the file's: the record of a compile stays the same.
    ordered = {name: values[name] for name in settings if name in values}
    return Assigned(Values(ordered, marks, derived), tuple(faults))


def _fill(
    values: dict[str, Value], settings: Mapping[str, Setting], unusable: set[str]
) -> dict[str, str]:
    """Add what the file leaves out; return the formulas of what was derived."""
    absent = [
        setting for setting in settings.values() if setting.name not in values.keys() | unusable
    ]
    values.update(
        {setting.name: setting.default for setting in absent if setting.derivation is None}
    )
    derived = {}
    for setting in absent:
        if setting.derivation is None:
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
        values[setting.name] = setting.parse(entry.text)
    except BadValueError as error:
        faults.append(Fault(file, str(error), entry.line))


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
