"""Which settings differ between what is in force and what the env file asks for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.config import catalogue, documents, extra
from infra.config.settings import BadValueError, Change, Setting, Value, Values


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting: what is in force (several values where processes differ), and what is asked."""

    setting: Setting
    old: tuple[Value, ...]
    new: Value

    @property
    def cost(self) -> Change:
        """What the change costs."""
        return self.setting.change

    @property
    def live(self) -> bool:
        """Tell whether the change needs no container restarted."""
        return self.cost is Change.LIVE

    @property
    def was(self) -> str:
        """The old value as text; `none` for a setting that the last compile did not know."""
        return " and ".join(str(value) for value in self.old) or "none"

    def as_dict(self) -> dict[str, object]:
        """Return the change as JSON holds it."""
        old = [documents.plain(value) for value in self.old]
        return {
            "setting": self.setting.name,
            "was": old[0] if len(old) == 1 else (old or None),
            "now": documents.plain(self.new),
            "change": self.cost.value,
        }


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is in force: the record of the last compile, corrected by what processes say."""

    values: Values
    observed: dict[str, tuple[Value, ...]]
    known: frozenset[str]

    def old(self, name: str) -> tuple[Value, ...]:
        """Return the values of a setting that are in force; none when nothing knows it."""
        if name in self.observed:
            return self.observed[name]
        return (self.values[name],) if name in self.known else ()


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the settings of the last compile; None when there was none yet."""
    try:
        settings: dict[str, Any] | None = json.loads(path.read_bytes()).get("settings")
    except FileNotFoundError:
        return None
    return settings


def baseline(record: Mapping[str, Any], observed: Mapping[str, tuple[Value, ...]]) -> Baseline:
    """Return what is in force; the default stands in for a setting that nothing knows.

    Where processes differ, the smaller value counts: it is the one a limit may rest on.
    A parameter of an extra file counts where it was compiled; else the server has its default.
    """
    values = catalogue.defaults().as_dict()
    parameters = {name: setting for name in record if (setting := extra.find(name))}
    recorded = {
        name: _parse(setting, record.get(name))
        for name, setting in (catalogue.by_name() | parameters).items()
    }
    seen = dict(observed)
    values |= {name: value for name, value in recorded.items() if value is not None}
    values |= {
        name: min(found, key=_order)
        for name, found in seen.items()
        if ":" not in name or name in parameters
    }
    known = {name for name, value in recorded.items() if value is not None}
    return Baseline(Values(values), seen, frozenset(known | seen.keys()))


def changes(before: Baseline, wanted: Values) -> tuple[SettingChange, ...]:
    """Return every setting that some process runs with another value of, in the file's order."""
    return tuple(
        SettingChange(setting, before.old(setting.name), wanted[setting.name])
        for setting in extra.concerned(before.values, wanted)
        if before.old(setting.name) != (wanted[setting.name],)
    )


def _parse(setting: Setting, recorded: object) -> Value | None:
    if recorded is None:
        return None
    try:
        return setting.parse(str(recorded))
    except BadValueError:
        return None


def _order(value: Value) -> tuple[bool, Any]:
    return isinstance(value, str), value
