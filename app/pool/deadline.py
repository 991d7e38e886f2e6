"""A point in time after which nobody wants the answer any more."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A point on the monotonic clock, in seconds.

    A point and not a duration, so that passing it down a call chain spends one
    allowance instead of granting a fresh one at every level.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline `seconds` from now; zero or less has expired already."""
        return cls(monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self.at - monotonic())

    @property
    def expired(self) -> bool:
        """True once the point has passed."""
        return monotonic() >= self.at

    def sooner(self, seconds: float) -> Deadline:
        """Return this deadline, or the one `seconds` from now where that comes first."""
        return Deadline(min(self.at, monotonic() + seconds))
