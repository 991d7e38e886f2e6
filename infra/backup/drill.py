"""A drill: a row is committed, the server counts as lost, and what is restored must have it."""

import time
import uuid
from datetime import UTC, datetime
from typing import Final

import psycopg

from infra.backup import checks, repository, serve
from infra.config import names
from infra.ops.outcome import FailedError
from infra.ops.waiting import wait_until

# Beyond archive_timeout: the segment is compressed and pushed.
_SLACK_SECONDS: Final = 60.0
_ARCHIVE_TIMEOUT: Final = "SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout'"


def begin() -> dict[str, object]:
    """Commit a row and wait until the repository has it; nothing is hurried.

    Return its mark, and the seconds that it took: what a disaster then would have lost.

    Raises:
        FailedError: it did not get there.

    """
    mark = str(uuid.uuid4())
    # On the primary alone: what counts is the repository, and it is filled without a standby too.
    with psycopg.connect(serve.dsn(), autocommit=True) as connection:
        connection.execute("UPDATE sluice.backup_state SET drill_marker = %s", (mark,))
        began = time.monotonic()
        row = connection.execute(
            f"SELECT pg_walfile_name(pg_current_wal_insert_lsn()), ({_ARCHIVE_TIMEOUT})"
        ).fetchone()
    if row is None:
        raise FailedError("the server does not say where its log is")
    segment, timeout = row
    archive_id = repository.info().archive_id

    def is_archived() -> bool:
        found = repository.archive(archive_id)
        return any(one.name == segment for one in found.segments)

    if not wait_until(is_archived, seconds=timeout + _SLACK_SECONDS, every=0.5):
        raise FailedError(
            f"a row that was committed {timeout + _SLACK_SECONDS:.0f} s ago is not in the "
            f"repository: segment {segment} has not come; see: make verify-backup"
        )
    return {"marker": mark, "point_seconds": round(time.monotonic() - began, 1)}


def is_there(socket: str, mark: str) -> bool:
    """Return True if the restored cluster has the row."""
    with checks.connect(socket, names.DATABASE) as connection:
        row = connection.execute("SELECT drill_marker FROM sluice.backup_state").fetchone()
    return row is not None and str(row[0]) == mark


def end(point_seconds: float, recovery_seconds: float) -> None:
    """Write down what was measured."""
    serve.record(
        {
            "drilled_at": datetime.now(UTC),
            "drill_point_seconds": point_seconds,
            "drill_recovery_seconds": recovery_seconds,
        }
    )
