"""A connection pool on psycopg_pool with cheap checks, hard deadlines and safe retries.

It imports nothing of the application around it; README.md beside this file documents
the settings and what is guaranteed.
"""

from .classification import RULES, FailureClass, classify
from .pool import DatabasePool
from .runner import CONFIRM
from .types import (
    CommitOutcomeUnknown,
    ConnectionSettings,
    DatabaseUnavailable,
    Deadline,
    DeadlineExceeded,
    PoolSaturated,
    PoolSettings,
    PoolState,
    TransactionMisuse,
)

__all__ = [
    "CONFIRM",
    "RULES",
    "CommitOutcomeUnknown",
    "ConnectionSettings",
    "DatabasePool",
    "DatabaseUnavailable",
    "Deadline",
    "DeadlineExceeded",
    "FailureClass",
    "PoolSaturated",
    "PoolSettings",
    "PoolState",
    "TransactionMisuse",
    "classify",
]
