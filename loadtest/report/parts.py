"""What a page is made of: sections with text, tables and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the note says what its figures are and in which unit."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def shown(self) -> list[list[str]]:
        """Return the cells as text."""
        return [[show(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as HTML; the note says how to read it."""

    title: str
    html: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    # Pairs of name and value, set side by side.
    facts: bool = False


def show(cell: Cell) -> str:
    """Return a figure with three significant digits, or more where it is a count."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"
