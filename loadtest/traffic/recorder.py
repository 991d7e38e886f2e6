"""Every request of a run, counted as it ends: by kind, by second, by error."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from loadtest.histogram import Histogram, summary_ms


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
        everything = Histogram()
        for histogram in self._kinds.values():
            everything.merge(histogram)
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
