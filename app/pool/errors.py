"""What a caller of the pool can see beyond the errors of its own work."""

from __future__ import annotations

from math import ceil

from .state import PoolState


class DatabaseUnavailable(Exception):  # noqa: N818 - a state of the service, not a fault in the code
    """The database cannot be used now; nothing was committed. Try again later."""

    def __init__(self, reason: str, state: PoolState, retry_after_seconds: float = 2.0) -> None:
        self.reason = reason
        self.state = state
        self.retry_after_seconds: int = max(1, ceil(retry_after_seconds))
        super().__init__(f"pool {state.name!r}: {reason} ({state})")


class PoolSaturated(DatabaseUnavailable):
    """Every connection is lent and the queue for one is full or too slow."""


class DeadlineExceeded(DatabaseUnavailable):
    """The deadline passed before the work was done; nothing was committed."""


class CommitOutcomeUnknown(DatabaseUnavailable):
    """COMMIT was sent and its answer never came: the work is in the database, or it is not."""


class TransactionMisuse(RuntimeError):  # noqa: N818 - same family as the other four
    """Work ended, or spoilt, the transaction that the pool opened for it and has to commit."""
