"""What a page is made of: sections with text, tables and charts.

Charts are drawn by Plotly with the same axes, colours and units everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from loadtest.figures import Finding, Histogram

Cell = str | int | float | None

# Okabe and Ito's palette: distinguishable also for readers who do not see red and green.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot")
HEIGHT = 420
# Of a row of spans.
SPAN_HEIGHT = 20
# Pixels; the names of what a chart of spans shows are in its left one.
MARGIN, SPANS_MARGIN = 70, 260
Points = Sequence[tuple[float, float | None]]


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


@dataclass(frozen=True, slots=True)
class Content:
    """What one command's page shows below its constraints, and docs/results.md of it."""

    options: Mapping[str, Any]
    findings: list[Finding]
    sections: list[Section]
    tables: list[Table]


def show(cell: Cell) -> str:
    """Return a figure with three significant digits, or more where it is a count."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def distribution(title: str, histograms: Mapping[str, Histogram], note: str = "") -> Chart:
    """Draw the share of samples that took at most as long, over a logarithmic time axis."""
    figure = go.Figure()
    for number, (name, histogram) in enumerate(histograms.items()):
        if histogram.total:
            seconds, shares = histogram.cumulative()
            figure.add_scatter(
                x=[1000 * value for value in seconds],
                y=[100 * share for share in shares],
                name=name,
                mode="lines",
                line=_line(number),
            )
    figure.update_xaxes(type="log", title="latency, ms (logarithmic)", exponentformat="none")
    figure.update_yaxes(title="samples that took at most as long, %", range=[0, 101])
    return _chart(title, figure, note)


def timeline(
    title: str,
    lines: Mapping[str, Points],
    y_title: str,
    note: str = "",
    *,
    step: bool = False,
    below: float | None = None,
) -> Chart:
    """Draw figures over the seconds of a run; `below`: of so many, below a chart of `spans`."""
    figure = go.Figure()
    for number, (name, points) in enumerate(lines.items()):
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            name=name,
            mode="lines",
            line=_line(number) | ({"shape": "hv"} if step else {}),
        )
    figure.update_xaxes(title="time into the run, s")
    figure.update_yaxes(title=y_title, rangemode="tozero")
    if below is not None:
        figure.update_xaxes(range=[0, below])
    return _chart(title, figure, note, left=MARGIN if below is None else SPANS_MARGIN)


def spans(title: str, rows: Mapping[str, Sequence[tuple[float, float]]], seconds: float) -> Chart:
    """Draw from when until when each of the named things was, over the seconds of a run."""
    figure = go.Figure()
    for name, times in rows.items():
        figure.add_bar(
            y=[name] * len(times),
            base=[began for began, _ in times],
            # What lasts no time is to be seen too.
            x=[max(ended - began, seconds / 500) for began, ended in times],
            orientation="h",
            marker_color=COLOURS[1],
            showlegend=False,
        )
    figure.update_xaxes(title="time into the run, s", range=[0, seconds])
    # Every name, the first on top; a figure of fixed height would leave out each second one.
    figure.update_yaxes(tickmode="linear", dtick=1, autorange="reversed")
    figure.update_layout(barmode="overlay")
    height = max(HEIGHT, SPAN_HEIGHT * len(rows) + 80)
    return _chart(title, figure, "", left=SPANS_MARGIN, height=height)


def against(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
    x_title: str,
    y_title: str,
    note: str = "",
    *,
    logarithmic_x: bool = True,
) -> Chart:
    """Draw medians with their range: points are (x, median, minimum, maximum)."""
    figure = go.Figure()
    for number, (name, points) in enumerate(lines.items()):
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [point[3] - point[1] for point in points],
                "arrayminus": [point[1] - point[2] for point in points],
                "thickness": 1.2,
            },
            name=name,
            mode="lines+markers",
            line=_line(number),
        )
    ticks = sorted({point[0] for points in lines.values() for point in points})
    figure.update_xaxes(
        title=x_title,
        type="log" if logarithmic_x else "linear",
        tickvals=ticks,
        ticktext=[f"{tick:,g}" for tick in ticks],
    )
    figure.update_yaxes(title=y_title, rangemode="tozero")
    return _chart(title, figure, note)


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, float | None]],
    y_title: str,
    note: str = "",
    *,
    logarithmic: bool = False,
) -> Chart:
    """Draw one bar per name in each group."""
    figure = go.Figure()
    for number, (group, values) in enumerate(groups.items()):
        figure.add_bar(
            x=list(values),
            y=list(values.values()),
            name=group,
            marker_color=COLOURS[number % len(COLOURS)],
            texttemplate="%{y:,.3~r}",
        )
    figure.update_xaxes(title="", tickangle=0)
    # A logarithmic axis is labelled at powers of ten alone, or its labels overlap.
    scale = {"type": "log", "dtick": 1} if logarithmic else {"rangemode": "tozero"}
    figure.update_yaxes(title=y_title, **scale)
    return _chart(title, figure, note)


def knee_chart(
    title: str,
    points: Sequence[dict[str, Any]],
    x_title: str,
    chosen: float,
    uncertain: tuple[float, float],
    note: str = "",
) -> Chart:
    """Draw throughput and p95 against a size, with the knee and the range it may lie in."""
    figure = go.Figure()
    for number, (name, key, axis) in enumerate(
        (("throughput", "throughput", "y"), ("p95 latency", "p95_ms", "y2"))
    ):
        spreads = [point[key] for point in points]
        figure.add_scatter(
            x=[point["size"] for point in points],
            y=[one["median"] for one in spreads],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [one["maximum"] - one["median"] for one in spreads],
                "arrayminus": [one["median"] - one["minimum"] for one in spreads],
            },
            name=name,
            mode="lines+markers",
            line=_line(number),
            yaxis=axis,
        )
    at_knee = next(point for point in points if point["size"] == chosen)
    figure.add_scatter(
        x=[chosen],
        y=[at_knee["throughput"]["median"]],
        name=f"knee: {chosen:g}",
        mode="markers",
        marker={"size": 16, "symbol": "circle-open", "color": COLOURS[2], "line": {"width": 3}},
    )
    if uncertain[1] > uncertain[0]:
        figure.add_vrect(x0=uncertain[0], x1=uncertain[1], fillcolor=COLOURS[2], opacity=0.12)
    ticks = [point["size"] for point in points]
    figure.update_xaxes(
        title=x_title, type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks]
    )
    figure.update_layout(
        yaxis={"title": "throughput, per second", "rangemode": "tozero"},
        yaxis2={
            "title": "p95 latency, ms",
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
            "tickmode": "auto",
        },
    )
    return _chart(title, figure, note)


def _line(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "dash": DASHES[number // len(COLOURS) % len(DASHES)],
        "width": 2,
    }


def _chart(
    title: str, figure: go.Figure, note: str, *, left: int = MARGIN, height: int = HEIGHT
) -> Chart:
    figure.update_layout(
        height=height,
        margin={"l": left, "r": MARGIN, "t": 20, "b": 60},
        template="plotly_white",
        font={"family": "sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        showlegend=True,
    )
    html = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return Chart(title, html, note)
