"""What a run shows: one line while it lasts, one table when it is over; 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from loadtest.traffic.recorder import Recorder

COLUMNS = 80
# Lines of a run whose output is no terminal: one line there cannot replace another.
LINES = 10
HEADINGS = ("requests", "failed", "req/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms")
MILLISECONDS = ("p50_ms", "p95_ms", "p99_ms", "p99.9_ms")


class ProgressLine:
    """The line: rewritten on a terminal, written anew every tenth of the run elsewhere."""

    def __init__(self, recorder: Recorder, seconds: float, out: TextIO | None = None) -> None:
        self._recorder = recorder
        self._seconds = seconds
        self._out = out or sys.stderr
        self._written = 0

    def show(self, now: float, users: int) -> None:
        """Show where the run is; `now` is Unix time."""
        elapsed = max(0.0, min(now - self._recorder.started, self._seconds))
        text = progress_text(self._recorder, elapsed, self._seconds, users)
        if self._out.isatty():
            # Cleared to its end: the line before may have been longer.
            self._out.write(f"\r{text}\033[K")
        elif (line := int(LINES * elapsed / self._seconds)) > self._written:
            self._written = line
            self._out.write(text + "\n")
        self._out.flush()

    def end(self) -> None:
        """Leave the line as it is."""
        if self._out.isatty():
            self._out.write("\n")
            self._out.flush()


def progress_text(recorder: Recorder, elapsed: float, seconds: float, users: int) -> str:
    """Return the line of a run of which `elapsed` of `seconds` have passed."""
    requests, rate = recorder.requests, recorder.requests / max(elapsed, 1e-9)
    text = (
        f"{elapsed:,.0f} of {seconds:,.0f} s: {users} users, {requests:,} requests "
        f"({rate:,.0f}/s), {recorder.failures:,} failed"
    )
    return text[: COLUMNS - 1]


def table(result: Mapping[str, Any]) -> str:
    """Return what a run came to, by kind of request, and its most frequent errors."""
    rows: list[tuple[str, ...]] = [("", *HEADINGS)]
    rows += [_row(kind, figures) for kind, figures in result["kinds"].items()]
    rows.append(_row("all", result["all"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    # An error's text may have line breaks.
    errors = (" ".join(f"{count:,} x {text}".split()) for text, count in result["errors"].items())
    lines += [f"{error:.{COLUMNS}}" for error in errors]
    return "\n".join(lines)


def _row(kind: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    milliseconds = (figures[name] for name in MILLISECONDS)
    return (
        kind,
        f"{figures['count']:,}",
        f"{figures['failures']:,}",
        f"{figures['per_second']:,.1f}",
        *("-" if value is None else f"{value:,.{int(value < 1000)}f}" for value in milliseconds),
    )
