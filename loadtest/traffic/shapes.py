"""How many users there are at each moment of a run."""

from __future__ import annotations

import math

from loadtest.traffic.options import TrafficOptions

RAMP_STEPS = 10
# Base load, then everybody at once for a fifth of the time, then base load again.
SPIKE_SHARE = 5
SPIKE = (0.4, 0.6)
SOAK_START = 0.05
SPAWN_SECONDS = 1.0


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
