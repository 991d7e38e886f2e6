"""What is wrong with a request: field, value and rule, safe to show and to log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN_CHARACTERS_MAX = 80
FAULTS_SHOWN_MAX = 50


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `value` is already shortened, None when there is none to show."""

    field: str
    value: Any
    rule: str


class InvalidRequestError(Exception):
    """The request breaks the rules that its faults name."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.rule}" for fault in faults))
        self.faults = faults


def from_validation(errors: Iterable[Any]) -> list[Fault]:
    """Turn pydantic's error list into faults."""
    return [
        Fault(
            field=field_name(error["loc"]),
            value=None if error["type"] == "missing" else shorten(error.get("input")),
            rule=error["msg"],
        )
        for error in errors
    ]


def field_name(location: Sequence[Any]) -> str:
    """Name a field as a caller writes it: ('body', 'sites', 3, 'latitude') -> sites[3].latitude.

    The parts of a path, a query or a header keep that word in front.
    """
    parts = location[1:] if len(location) > 1 and location[0] == "body" else location
    name = ""
    for part in parts:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += ("." if name else "") + str(shorten(part))
    return name or "body"


def shorten(value: Any) -> Any:
    """Return a value that fits into an error body: small, finite, valid Unicode."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _shorten_text(value)
    if isinstance(value, int):
        return value if abs(value) < 2**53 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if abs(value) <= 1e300 else str(value)
    if isinstance(value, dict):
        return f"an object with {len(value)} fields"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)} items"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return _shorten_text(str(value))


def _shorten_text(text: str) -> str:
    cut = text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "..."
    return cut.encode("utf-8", "backslashreplace").decode("utf-8")
