"""A run of load on the api: what is asked of it, how many users when, and its thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest import API_URL

KINDS = ("submit", "poll", "results", "summary")
SHAPES = ("steady", "ramp", "spike", "soak")
DEFAULT_MIX = "submit=1,poll=6,results=2,summary=1"
RAMP_STEPS = 10
# Base load, then everybody at once for a fifth of the time, then base load again.
SPIKE_SHARE = 5
SPIKE = (0.4, 0.6)
SOAK_START = 0.05
SPAWN_SECONDS = 1.0


def parse_mix(text: str) -> dict[str, int]:
    """Read proportions such as `submit=1,poll=6`; raise ValueError naming the part."""
    mix: dict[str, int] = {}
    for part in text.split(","):
        kind, _, weight = part.strip().partition("=")
        if kind not in KINDS or not weight.isdecimal():
            raise ValueError(f"MIX part {part!r}: must be KIND=WEIGHT, KIND one of {KINDS}")
        mix[kind] = int(weight)
    if not sum(mix.values()):
        raise ValueError(f"MIX={text!r}: at least one weight must be above 0")
    return mix


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """One run: `users` in a closed loop with `pause_ms` of thought, for `seconds`.

    `tasks_each` is the size of a submission. The run also ends after `requests_max`.
    """

    users: int = 20
    shape: str = "steady"
    seconds: float = 30.0
    mix: Mapping[str, int] = field(default_factory=lambda: parse_mix(DEFAULT_MIX))
    pause_ms: float = 100.0
    tasks_each: int = 10
    requests_max: int = 1_000_000
    url: str = API_URL

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"SHAPE={self.shape!r}: must be one of {', '.join(SHAPES)}")
        if not 1 <= self.users <= 1000:
            raise ValueError(f"USERS={self.users}: must lie in 1..1000")
        if not 1 <= self.seconds <= 86_400:
            raise ValueError(f"RUN_SECONDS={self.seconds}: must lie in 1..86400")
        if not 1 <= self.tasks_each <= 80:
            raise ValueError(f"TASKS_EACH={self.tasks_each}: must lie in 1..80")

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON holds them."""
        return asdict(self)


def users_at(options: TrafficOptions, seconds: float) -> int | None:
    """Return the number of users `seconds` into the run; None once it is over."""
    if seconds >= options.seconds:
        return None
    progress = seconds / options.seconds
    match options.shape:
        case "ramp":
            return max(1, math.ceil(options.users * (int(progress * RAMP_STEPS) + 1) / RAMP_STEPS))
        case "spike":
            inside = SPIKE[0] <= progress < SPIKE[1]
            return options.users if inside else max(1, options.users // SPIKE_SHARE)
        case "soak":
            share = min(1.0, progress / SOAK_START)
            return max(1, math.ceil(options.users * share))
        case _:
            return options.users


def spawn_rate(options: TrafficOptions) -> float:
    """Return users per second: a step is there within a second."""
    return max(1.0, options.users / SPAWN_SECONDS)


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
