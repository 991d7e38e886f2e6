"""Look whether the repository holds what a restore would take, and name what it does not."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from infra.backup import repository, serve
from infra.backup.repository import Archive, Info, RepositoryError

# No bound: it reads every file of every backup.
_FAULT: Final = re.compile(
    r"P\d\d\s+INFO: ((?:invalid|file missing|unable|unknown|size|missing)\b.*?)"
    r"(?:: \[\d+\] raised from.*)?$",
    re.MULTILINE,
)
_STATUS: Final = re.compile(r"^\s*(No usable .*|status: error)$", re.MULTILINE)
# A day's backup may be this late before it counts as missing.
LATE: Final = timedelta(hours=26)


def run(*, server: bool) -> list[str]:
    """Return what is wrong, a line each; none where all is as it must be.

    `server`: have the running server archive a segment, and wait for it.
    """
    return list(_faults(server=server))


def _faults(*, server: bool) -> Iterator[str]:
    try:
        serve.require_writable()
    except RepositoryError as error:
        yield str(error)
    else:
        if full := serve.too_full():
            yield full
    try:
        found = repository.info()
        running = repository.running_id(serve.DATA)
        if None not in (running, found.system_id) and running != found.system_id:
            yield serve.another_cluster(found.system_id or 0, running or 0)
        archived = repository.archive(found.archive_id) if found.archive_id else Archive()
        yield from stale(found, archived, datetime.now(UTC))
        yield from reported(
            repository.ask(
                "verify", "--output=none", "--log-level-console=info", "--job-retry=0", seconds=None
            )
        )
    except RepositoryError as error:
        yield str(error)
        return
    if server:
        try:
            repository.ask("check")
        except RepositoryError as error:
            yield f"the log does not get there: {error}"


def stale(found: Info, archived: Archive, now: datetime) -> Iterator[str]:
    """Yield what is too old, or missing between what is there."""
    if not found.current:
        yield "there is no backup of the running cluster"
        return
    newest = found.current[-1]
    if now - newest.stopped > LATE:
        hours = (now - newest.stopped).total_seconds() / 3600
        yield f"the newest backup, {newest.label}, is {hours:.0f} hours old"
    oldest = next((one for one in found.current if archived.leads_from(one)), newest)
    for name in repository.gaps(archived, oldest.first, now):
        yield f"segment {name} of the log is missing"


def reported(printed: str) -> Iterator[str]:
    """Yield the files that `pgbackrest verify` names, each once."""
    lines = dict.fromkeys(" ".join(one.split()) for one in _FAULT.findall(printed))
    yield from lines
    if not lines:
        yield from dict.fromkeys(_STATUS.findall(printed))


def record(faults: list[str]) -> None:
    """Write down that the repository was looked at; nobody is there to read where it is down."""
    try:
        serve.record({"verified_at": datetime.now(UTC), "verify_faults": len(faults)})
    except psycopg.Error:
        return
