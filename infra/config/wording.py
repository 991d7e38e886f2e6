"""How the rules of the budget compare settings and word a breach."""

from collections.abc import Callable, Iterator
from decimal import Decimal

from infra.config.settings import UnavailableError, Values

Rule = Callable[[Values], Iterator[str]]

_UNITS_PER_SECOND = {"_SECONDS": 1, "_MS": 1000}


def shown(values: Values, *names: str) -> str:
    """Return `NAME=value` for every name; one that the file does not give says so."""
    return ", ".join(
        f"{name}={values[name]}{' (derived)' if name in values.derived else ''}" for name in names
    )


def seconds(values: Values, name: str) -> Decimal:
    """Return a time setting in seconds; its unit is the end of its name."""
    for ending, units in _UNITS_PER_SECOND.items():
        if name.endswith(ending):
            return values.number(name) / units
    raise ValueError(f"{name} does not say its unit of time")


def at_most(values: Values, low: str, high: str, reason: str) -> Iterator[str]:
    """Yield a breach when setting `low` exceeds setting `high`; both count the same thing."""
    if _available(values, low, high) and values.number(low) > values.number(high):
        yield f"{shown(values, low)} exceeds {shown(values, high)}; {reason}"


def shorter(values: Values, low: str, high: str, reason: str) -> Iterator[str]:
    """Yield a breach when the time `low` is not below the time `high`."""
    if _available(values, low, high) and seconds(values, low) >= seconds(values, high):
        yield f"{shown(values, low)} must be below {shown(values, high)}; {reason}"


def not_longer(values: Values, low: str, high: str, reason: str) -> Iterator[str]:
    """Yield a breach when the time `low` exceeds the time `high`."""
    if _available(values, low, high) and seconds(values, low) > seconds(values, high):
        yield f"{shown(values, low)} exceeds {shown(values, high)}; {reason}"


def _available(values: Values, *names: str) -> bool:
    """Tell whether every setting has a value: one bad setting must not hide the other pairs."""
    try:
        return all(values[name] is not None for name in names)
    except UnavailableError:
        return False
