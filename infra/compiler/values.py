"""From the entries of an env file to typed values: unknown, misspelt and bad ones refused."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from infra.compiler import catalogue
from infra.compiler.envfile import Entry, EnvFile
from infra.compiler.faults import Fault
from infra.compiler.knobs import BadValueError, Knob, UnavailableError, Value, Values


@dataclass(frozen=True, slots=True)
class Assigned:
    """The usable values and every fault. A faulty knob has no value at all."""

    values: Values
    faults: tuple[Fault, ...]


def assign(file: EnvFile, *, overlay: bool = False) -> Assigned:
    """Type every entry of `file`; settings it leaves out take their default.

    An `overlay` is no whole env file: what Compose reads may be missing from it.
    """
    knobs = catalogue.by_name()
    faults = list(file.faults)
    values: dict[str, Value] = {}
    unusable = _faulty_names(file)
    for entry in file.entries:
        if entry.name not in knobs:
            faults.append(_unknown(entry, knobs, file.name))
            unusable.update(_nearest(entry.name, knobs))
        elif entry.name not in unusable:
            _parse_into(values, knobs[entry.name], entry, file.name, faults)
            unusable.update({entry.name} - values.keys())
    if not overlay:
        faults.extend(_missing(file, knobs, unusable))
    derived = _fill(values, knobs, unusable)
    marks = {entry.name: entry.mark for entry in file.entries if entry.mark}
    # In the order of the table, whatever the file's: the record of a compile stays the same.
    ordered = {name: values[name] for name in knobs if name in values}
    return Assigned(Values(ordered, marks, derived), tuple(faults))


def _fill(
    values: dict[str, Value], knobs: Mapping[str, Knob], unusable: set[str]
) -> dict[str, str]:
    """Add what the file leaves out; return the formulas of what was derived."""
    absent = [knob for knob in knobs.values() if knob.name not in values.keys() | unusable]
    values.update({knob.name: knob.default for knob in absent if knob.derivation is None})
    derived = {}
    for knob in absent:
        if knob.derivation is None:
            continue
        try:
            values[knob.name] = knob.derived(Values(values))
        except UnavailableError:
            continue
        derived[knob.name] = knob.derivation.formula
    return derived


def _parse_into(
    values: dict[str, Value], knob: Knob, entry: Entry, file: str, faults: list[Fault]
) -> None:
    try:
        values[knob.name] = knob.parse(entry.text)
    except BadValueError as error:
        faults.append(Fault(file, str(error), entry.line))


def _faulty_names(file: EnvFile) -> set[str]:
    lines = {fault.line for fault in file.faults}
    return {entry.name for entry in file.entries if entry.line in lines}


def _nearest(name: str, knobs: Mapping[str, Knob]) -> list[str]:
    return difflib.get_close_matches(name.upper(), knobs, n=1, cutoff=0.7)


def _unknown(entry: Entry, knobs: Mapping[str, Knob], file: str) -> Fault:
    near = _nearest(entry.name, knobs)
    advice = f"did you mean {near[0]}?" if near else "remove it"
    return Fault(file, f"{entry.name}={entry.text[:40]} is not a knob; {advice}", entry.line)


def _missing(file: EnvFile, knobs: Mapping[str, Knob], unusable: set[str]) -> list[Fault]:
    """Compose reads some knobs from the file itself and knows no defaults."""
    present = {entry.name for entry in file.entries} | unusable
    return [
        Fault(
            file.name, f"{knob.name} is missing; Compose needs it: add {knob.name}={knob.default}"
        )
        for knob in knobs.values()
        if knob.compose and knob.name not in present and not _unreadable(file)
    ]


def _unreadable(file: EnvFile) -> bool:
    return bool(file.faults) and not file.entries
