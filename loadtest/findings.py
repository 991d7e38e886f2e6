"""What was to be shown, what was measured, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim with its figure; `holds` is None where this run cannot tell."""

    claim: str
    measured: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        """Return yes, no, or that it was not measured."""
        if self.holds is None:
            return "not measured"
        return "yes" if self.holds else "NO"


def at_least(claim: str, value: float | None, bound: float, unit: str = "") -> Finding:
    """Return the finding that `value` is at least `bound`."""
    return _bounded(claim, value, unit, None if value is None else value >= bound)


def at_most(claim: str, value: float | None, bound: float, unit: str = "") -> Finding:
    """Return the finding that `value` is at most `bound`."""
    return _bounded(claim, value, unit, None if value is None else value <= bound)


def _bounded(claim: str, value: float | None, unit: str, holds: bool | None) -> Finding:
    shown = "-" if value is None else f"{value:,.4g}{unit}"
    return Finding(claim, shown, holds)
