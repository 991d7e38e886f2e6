"""Which backup is due: decided by what is there, so that what was missed is caught up."""

from collections.abc import Sequence
from datetime import datetime, time, timedelta

from infra.backup.repository import Backup


def due(
    backups: Sequence[Backup],
    now: datetime,
    *,
    at: time,
    full_every_days: int,
    reason_for_full: str = "",
) -> str:
    """Return the kind of backup that is due, `full` or `diff`; empty when none is.

    `backups` are those of the running cluster in their order. One is due when none was begun since
    the latest time of day `at`. `reason_for_full` is why what is there cannot be gone on from.
    """
    full = next((one for one in reversed(backups) if one.kind == "full"), None)
    if full is None or reason_for_full:
        return "full"
    slot = latest(now, at)
    if backups[-1].started >= slot:
        return ""
    return "full" if (slot.date() - full.started.date()).days >= full_every_days else "diff"


def latest(now: datetime, at: time) -> datetime:
    """Return the latest moment with this time of day that is not after `now`."""
    today = datetime.combine(now.date(), at, now.tzinfo)
    return today if today <= now else today - timedelta(days=1)
