"""Whether a run stayed within its thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The most that may be: failed requests in per cent, p95 in milliseconds."""

    error_percent_max: float = 0.0
    p95_ms_max: float = 1000.0

    def as_dict(self) -> dict[str, float]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def faults(figures: Mapping[str, Any], thresholds: Thresholds) -> list[str]:
    """Return what is beyond a threshold, one sentence each; a run without requests is one."""
    if not figures["count"]:
        return ["no request ended: nothing was measured"]
    found = []
    if figures["error_percent"] > thresholds.error_percent_max:
        found.append(
            f"{figures['error_percent']:.2f} % of {figures['count']} requests failed; "
            f"MAX_ERROR_PERCENT={thresholds.error_percent_max:g}"
        )
    if figures["p95_ms"] > thresholds.p95_ms_max:
        found.append(f"p95 is {figures['p95_ms']:.0f} ms; MAX_P95_MS={thresholds.p95_ms_max:g}")
    return found
