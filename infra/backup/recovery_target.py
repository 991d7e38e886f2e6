"""The recovery target: cluster, timeline and moment, and the backup that leads there.

Pure functions of what was asked for and of what the repository holds. What cannot be restored is
refused, and the message says what can.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from infra.backup import repository
from infra.backup.repository import Archive, Backup, Info
from infra.ops.outcome import RefusedError

_FORMS: Final = "2026-11-24 10:00:00+00, a time zone included"


class BadTimeError(ValueError):
    """What was given as TO is no moment; the message says why."""


def moment(text: str) -> datetime:
    """Return the moment that TO names, in UTC.

    Raises:
        BadTimeError: it is none, or has no time zone.

    """
    shown = text[:40]
    # PostgreSQL writes +00, which fromisoformat takes since Python 3.11.
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadTimeError(f"TO={shown} is no moment; write {_FORMS}") from None
    if found.tzinfo is None:
        raise BadTimeError(f"TO={shown} has no time zone; write {_FORMS}")
    return found.astimezone(UTC)


def shown(when: datetime | None) -> str:
    """Return a moment as it is printed, and can be given back."""
    return f"{when:%Y-%m-%d %H:%M:%S}+00" if when else "the end of the log"


def require_timeline(text: str) -> int:
    """Return the timeline that TIMELINE names; 0 for the newest.

    Raises:
        RefusedError: it is no number of one.

    """
    if text and not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise RefusedError(f"TIMELINE={text[:40]} is no timeline; write its number")
    return int(text or 0)


def require_cluster(found: Info, running: int | None, asked: str) -> int:
    """Return the cluster to restore: the one asked for, or the running one's.

    Raises:
        RefusedError: the repository has none of it.

    """
    held = sorted({one.system_id for one in found.backups})
    if asked:
        if asked not in map(str, held):
            known = ", ".join(map(str, held)) or "none"
            raise RefusedError(f"CLUSTER={asked[:40]} is not in the repository; it holds: {known}")
        return int(asked)
    if running is not None and running not in held and held:
        raise RefusedError(
            f"the repository is another cluster's: it holds {', '.join(map(str, held))}, the "
            f"server is {running}; if that is what you want: CLUSTER={held[-1]}"
        )
    if running is not None and held:
        return running
    if found.system_id is None or not held:
        raise RefusedError("there is no backup in the repository")
    return found.system_id


def choose(found: Info, archived: Archive, cluster: int, to: datetime | None) -> Backup:
    """Return the backup to begin from: the newest that was finished by then.

    Those that the timeline to restore does not go on from are passed over: it has left theirs
    before they ended.

    Raises:
        RefusedError: there is none; the message says from when on a restore is possible.

    """
    held = [one for one in found.backups if one.system_id == cluster]
    if not held:
        raise RefusedError(f"there is no backup of cluster {cluster} in the repository")
    backups = [one for one in held if archived.leads_from(one)]
    if not backups:
        raise RefusedError(
            f"no backup leads to timeline {archived.target or archived.timeline}; the newest, "
            f"{held[-1].label}, does to TIMELINE={held[-1].timeline}"
        )
    usable = [one for one in backups if to is None or one.stopped <= to]
    if not usable:
        raise RefusedError(
            f"TO={shown(to)} is before {shown(backups[0].stopped)}, the earliest moment that a "
            "restore can go back to"
        )
    return usable[-1]


def require_window(archived: Archive, to: datetime | None) -> None:
    """Raise RefusedError for a moment that the log does not reach."""
    until = archived.until
    if to is None:
        return
    if until is None or to > until + timedelta(seconds=1):
        raise RefusedError(
            f"TO={shown(to)} is after {shown(until)}, when the last segment of the log was "
            "archived; without TO all of it is restored"
        )


def require_no_gap(archived: Archive, backup: Backup, to: datetime | None, now: datetime) -> None:
    """Raise RefusedError where a segment between the backup and the moment is missing."""
    missing = repository.gaps(archived, backup.first, now)
    if not missing:
        return
    number = repository.segment_number(missing[0])
    before = [one.at for one in archived.segments if one.number < number]
    until = max(before, default=None)
    if to is None or until is None or to > until:
        raise RefusedError(
            f"segment {missing[0]} of the log is missing after backup {backup.label}; TO can be "
            f"{shown(until) if until else 'no moment'} at the latest"
        )
