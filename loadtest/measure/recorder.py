"""Every request of a run, counted as it ends; one line while it lasts, one table at its end."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from loadtest.figures import Histogram, summary_ms

COLUMNS = 80
# Lines of a run whose output is no terminal: one line there cannot replace another.
LINES = 10
HEADINGS = ("requests", "failed", "req/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms")
MILLISECONDS = ("p50_ms", "p95_ms", "p99_ms", "p99.9_ms")


@dataclass(slots=True)
class Second:
    """What ended within one second of the run."""

    users: int = 0
    failures: int = 0
    latencies: Histogram = field(default_factory=Histogram)


class Recorder:
    """Counts requests; `started` is Unix time."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._kinds: dict[str, Histogram] = defaultdict(Histogram)
        self._failures: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds: dict[int, Second] = defaultdict(Second)

    @property
    def requests(self) -> int:
        """Return how many requests ended."""
        return sum(kind.total for kind in self._kinds.values())

    @property
    def failures(self) -> int:
        """Return how many of them failed."""
        return self._failures.total()

    def add(self, kind: str, ended: float, seconds: float, status: int, error: str) -> None:
        """Count one request; `status` 0 means that no answer came; `error` empty: it passed."""
        self._kinds[kind].add(seconds)
        self._statuses[str(status)] += 1
        second = self._seconds[int(ended - self.started)]
        second.latencies.add(seconds)
        if error:
            self._failures[kind] += 1
            self._errors[f"{kind}: {error[:200]}"] += 1
            second.failures += 1

    def note_users(self, now: float, users: int) -> None:
        """Remember how many users there were in this second."""
        self._seconds[int(now - self.started)].users = users

    def result(self, ended: float) -> dict[str, Any]:
        """Return the whole run as JSON holds it."""
        everything = Histogram.merged(self._kinds.values())
        return {
            "started": self.started,
            "ended": ended,
            "all": self._figures(everything, self.failures, ended),
            "kinds": {
                kind: self._figures(histogram, self._failures[kind], ended)
                for kind, histogram in sorted(self._kinds.items())
            },
            "statuses": dict(self._statuses),
            "errors": dict(self._errors.most_common(20)),
            "seconds": [
                _second(number, second) for number, second in sorted(self._seconds.items())
            ],
        }

    def _figures(self, histogram: Histogram, failures: int, ended: float) -> dict[str, Any]:
        count = histogram.total
        return summary_ms(histogram) | {
            "failures": failures,
            "error_percent": 100 * failures / count if count else 0.0,
            "per_second": count / max(ended - self.started, 1e-9),
            "histogram": histogram.to_json(),
        }


def _second(number: int, second: Second) -> dict[str, Any]:
    return {
        "second": number,
        "users": second.users,
        "requests": second.latencies.total,
        "failures": second.failures,
        "p50_ms": second.latencies.percentile(50) * 1000,
        "p95_ms": second.latencies.percentile(95) * 1000,
        "p99_ms": second.latencies.percentile(99) * 1000,
    }


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
