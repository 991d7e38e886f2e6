"""What a run of load on the api is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("submit", "poll", "results", "summary")
SHAPES = ("steady", "ramp", "spike", "soak")
DEFAULT_MIX = "submit=1,poll=6,results=2,summary=1"


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
    url: str = "http://api:8000"

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
