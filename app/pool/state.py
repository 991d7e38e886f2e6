"""What a pool looks like at one moment, and what that moment means."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PoolState:
    """Numbers of connections (or callers, for `waiting`) at one moment.

    `size` counts connections that exist or are being made; `in_use` those lent to
    callers; `idle` those ready to be lent. What is in neither is being made,
    checked or replaced. While `unreachable` every caller is refused at once.
    """

    name: str
    size: int
    min_size: int
    max_size: int
    in_use: int
    idle: int
    waiting: int
    max_waiting: int
    unreachable: bool = False

    def __str__(self) -> str:
        return (
            f"{self.in_use} in use, {self.idle} idle, size {self.size} of {self.max_size}, "
            f"{self.waiting} waiting of {self.max_waiting}"
        )


@dataclass(slots=True)
class ConnectRecord:
    """How the attempts to connect have been going.

    Written by the pool's worker threads without a lock: each field is one
    assignment, and a reader that sees half of an update is wrong for microseconds.
    """

    pool: str = ""
    opened: int = 0
    failed: int = 0
    last_opened_at: float = field(default=float("-inf"))
    last_failed_at: float = field(default=float("-inf"))
    last_error: str = ""

    def note_opened(self, now: float) -> bool:
        """Count a connection made at `now` (monotonic seconds); True ends an outage."""
        recovered = self.failing
        self.opened += 1
        self.last_opened_at = now
        return recovered

    def note_failed(self, now: float, error: BaseException) -> bool:
        """Count an attempt that failed at `now` (monotonic seconds); True begins an outage."""
        begun = not self.failing
        self.failed += 1
        self.last_failed_at = now
        self.last_error = summary(error)
        return begun

    @property
    def failing(self) -> bool:
        """True when the latest attempt failed."""
        return self.last_failed_at > self.last_opened_at


def is_outage(state: PoolState, connects: ConnectRecord) -> bool:
    """Tell whether a caller waited in vain because no connection can be made.

    The other reason is that all connections are lent: saturation, where asking for
    less helps. The two look alike to the caller, who only sees the wait end.
    """
    if state.in_use >= state.max_size:
        return False
    return connects.failing or state.in_use + state.idle == 0


def summary(error: BaseException) -> str:
    """Return the class, SQLSTATE and first line of an error, at most 200 characters."""
    state = getattr(error, "sqlstate", None)
    label = type(error).__name__ + (f" {state}" if state else "")
    lines = str(error).strip().splitlines()
    return f"{label}: {lines[0] if lines else ''}"[:200]
