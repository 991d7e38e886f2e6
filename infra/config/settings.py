"""The setting: what an operator may set, with its unit, range, default and rule."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from infra.config.measured import Mark

Value = int | Decimal | str
# The value of a parameter that an extra file does not name; such a parameter is not stored.
SERVER_DEFAULT: Final = "server default"

_UNITS_PER_SECOND = {"_SECONDS": 1, "_MS": 1000}
_TENTH = Decimal("0.1")
_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")
_DECIMAL = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,6})?\Z")
_WITH_UNIT = re.compile(r"-?[0-9]+(\.[0-9]+)?\s*([A-Za-z%]+)\Z")


class Tier(StrEnum):
    """The part of the stack a setting belongs to; the order is that of the env file."""

    POSTGRES = "postgres"
    PGBOUNCER = "pgbouncer"
    GATEWAY = "gateway"
    NETWORK = "network"
    APP = "app"
    API = "api"
    WORKER = "worker"
    BACKUP = "backup"
    OPERATIONS = "operations"
    OBSERVABILITY = "observability"


class Change(StrEnum):
    """What a changed value costs."""

    LIVE = "live"
    RESTART_POSTGRES = "restart of postgres"
    RESTART_PGBOUNCER = "restart of pgbouncer"
    RESTART_API = "restart of api"
    RESTART_WORKER = "restart of worker"
    RESTART_APP = "restart of api and worker"
    MIGRATE = "next run of migrate"
    RECREATE = "recreates the containers of its tier"


class BadValueError(ValueError):
    """The text is not a value of this setting; the message says why and what to write."""


@dataclass(frozen=True, slots=True)
class Derivation:
    """A default that follows from the settings `sources`; `formula` says how.

    `value` returns the choice, or the number in the unit of the derived setting, before its range
    applies.
    """

    sources: tuple[str, ...]
    formula: str
    value: Callable[[Values], Decimal | str]


@dataclass(frozen=True, slots=True)
class Form:
    """A form of text: `rule` names it; `parse` returns the value or raises ValueError with why."""

    rule: str
    parse: Callable[[str], str]


def share(factor: str, source: str, *, units: int = 1) -> Derivation:
    """Derive a time as a share of another in seconds; `units` are those of it in a second."""
    return Derivation(
        (source,),
        f"{factor} x {source}",
        lambda values: values.number(source) * Decimal(factor) * units,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `rule` says what must hold against other settings, or is empty.

    `default` counts where the file gives no value; with `derivation` it is what follows from
    the other defaults. `listed` are the settings that stack.env lists; the others may be added
    to it. `compose` marks the settings that compose.yaml interpolates: those must stand in the
    env file itself, because Compose does not know the defaults of this table. With `left_out`
    the default cannot be written: Compose goes by whether the line is there.
    """

    name: str
    tier: Tier
    meaning: str
    unit: str
    default: Value
    change: Change
    minimum: Value = 0
    maximum: Value = 0
    choices: tuple[str, ...] = ()
    form: Form | None = None
    rule: str = ""
    compose: bool = False
    listed: bool = False
    left_out: bool = False
    derivation: Derivation | None = None

    @property
    def range(self) -> str:
        """The accepted values as text."""
        if self.choices:
            return " | ".join(self.choices)
        if self.form:
            return self.form.rule
        return f"{self.minimum}..{self.maximum}"

    def parse(self, text: str) -> Value:
        """Return the typed value of `text`, or raise BadValueError."""
        if self.choices:
            return self._parse_choice(text)
        if self.form:
            return self._parse_form(self.form, text)
        value = self._parse_number(text)
        if not Decimal(self.minimum) <= value <= Decimal(self.maximum):
            raise BadValueError(f"{self.name}={text} is outside {self.range} {self.unit}")
        return value

    def derived(self, values: Values) -> Value:
        """Return the default that follows from `values`, within the range.

        Raises UnavailableError when a setting that it follows from has no usable value.
        """
        if self.derivation is None:
            return self.default
        number = self.derivation.value(values)
        if isinstance(number, str):
            return number
        number = min(max(number, Decimal(self.minimum)), Decimal(self.maximum))
        return int(number) if isinstance(self.default, int) else number.quantize(_TENTH, ROUND_DOWN)

    def _parse_choice(self, text: str) -> str:
        if text in self.choices:
            return text
        near = difflib.get_close_matches(text, self.choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadValueError(f"{self.name}={text[:40]} is not one of {self.range}{hint}")

    def _parse_form(self, form: Form, text: str) -> str:
        try:
            return form.parse(text)
        except ValueError as error:
            raise BadValueError(f"{self.name}={text[:40]} {error}; write {form.rule}") from None

    def _parse_number(self, text: str) -> int | Decimal:
        if isinstance(self.default, Decimal):
            if _DECIMAL.match(text):
                return Decimal(text)
            raise BadValueError(self._not_a_number(text, "a number"))
        if _INTEGER.match(text):
            return int(text)
        raise BadValueError(self._not_a_number(text, "a whole number"))

    def _not_a_number(self, text: str, kind: str) -> str:
        shown = f"{self.name}={text[:40]}"
        if match := _WITH_UNIT.match(text):
            return (
                f"{shown} carries the unit {match.group(2)!r}; this setting is {kind} "
                f"of {self.unit}: write the number alone"
            )
        return f"{shown} is not {kind} of {self.unit}"


class UnavailableError(LookupError):
    """The setting's value is itself at fault, so nothing can be judged by it."""


class Values:
    """The value of every setting, read by type; a faulty setting raises UnavailableError.

    `marks` are the measurements on record in the env file, by setting; `derived` are the
    formulas of the values that follow from others, by setting.

    Parameters of the servers' extra files are among the values, as FILE:NAME.
    """

    def __init__(
        self,
        values: dict[str, Value],
        marks: Mapping[str, Mark] = MappingProxyType({}),
        derived: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._values: Final = {
            name: value for name, value in values.items() if value != SERVER_DEFAULT
        }
        self.marks: Final = marks
        self.derived: Final = derived

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[name]
        except KeyError:
            if ":" in name:
                return SERVER_DEFAULT
            raise UnavailableError(name) from None

    def integer(self, name: str) -> int:
        """Return a whole-number setting."""
        value = self[name]
        if not isinstance(value, int):
            raise TypeError(f"{name} is not a whole number")
        return value

    def number(self, name: str) -> Decimal:
        """Return a whole or decimal setting as Decimal."""
        value = self[name]
        if isinstance(value, str):
            raise TypeError(f"{name} is not a number")
        return Decimal(value)

    def seconds(self, name: str) -> Decimal:
        """Return a time in seconds; its unit is the end of its name."""
        for ending, units in _UNITS_PER_SECOND.items():
            if name.endswith(ending):
                return self.number(name) / units
        raise ValueError(f"{name} does not say its unit of time")

    def text(self, name: str) -> str:
        """Return a setting of fixed choices or of a form."""
        return str(self[name])

    def with_changes(self, changes: Mapping[str, Value]) -> Values:
        """Return the same with other values, which are no longer derived."""
        derived = {name: why for name, why in self.derived.items() if name not in changes}
        return Values(self._values | dict(changes), self.marks, derived)

    def joined(self, other: Values) -> Values:
        """Return the same with the values of another, and what is known of them."""
        return Values(
            self._values | other._values,
            {**self.marks, **other.marks},
            {**self.derived, **other.derived},
        )

    def as_dict(self) -> dict[str, Value]:
        """Return a copy of all values by name."""
        return dict(self._values)
