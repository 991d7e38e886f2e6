"""The service: makes the backup that is due, and writes down what it found for whoever looks.

Whatever fails is said in the state, once in the log, and tried again; it never ends the service.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psycopg
from psycopg import sql

from infra.backup import repository
from infra.backup.repository import AnotherKeyError, Archive, Backup, Info, RepositoryError
from infra.ops.outcome import Exit, RefusedError

DATA: Final = "/var/lib/postgresql/data"
# The health check looks at its age.
_ALIVE: Final = Path("/tmp/alive")  # noqa: S108  # the container's own tmpfs
_LOOK_SECONDS: Final = 60.0
_SOON_SECONDS: Final = 3.0
_ALIVE_SECONDS: Final = 20.0
_AGAIN_SECONDS: Final = 600.0
# Its own lock on this machine; the server's, which a backup elsewhere holds.
_LOCKED: Final = ("unable to acquire lock", "unable to acquire PostgreSQL advisory lock")
# Less than this cannot take a segment of the log and what belongs to it.
_FULL_BYTES: Final = 4 * repository.SEGMENT_BYTES


class UnderWayError(RepositoryError):
    """Another backup holds the lock: the operator's, or the service's own."""


@dataclass(slots=True)
class Service:
    """What it remembers from one look to the next."""

    failed_at: float = -_AGAIN_SECONDS
    failure: str = ""
    said: str = ""
    schedule: str = ""
    written: tuple[object, ...] = ()

    def run(self) -> None:
        """Look once a minute until a signal comes."""
        # A backup under way ends with its process group; the next one resumes what is whole.
        end_on_signal(Exit.OK)
        while True:
            _ALIVE.touch()
            try:
                self.look(repository.settings())
            except (RepositoryError, psycopg.Error, OSError) as error:
                self.say(_line(error))
            # At the stack's first start the server is not there yet.
            ready = self.written or self.failure or "BACKUPS=off" in self.said
            until = time.monotonic() + (_LOOK_SECONDS if ready else _SOON_SECONDS)
            while time.monotonic() < until:
                _ALIVE.touch()
                time.sleep(min(_ALIVE_SECONDS, max(0.0, until - time.monotonic())))

    def say(self, line: str) -> None:
        """Log what holds now, once."""
        if line and line != self.said:
            log(line)
        self.said = line

    def _say_schedule(self, settings: Mapping[str, Any]) -> None:
        """Log when backups are made, at the start and after a change of it."""
        schedule = (
            f"a backup is made each day at {settings['time_utc']} UTC, "
            f"a full one every {settings['full_every_days']} days"
        )
        if schedule != self.schedule:
            log(schedule)
        self.schedule = schedule

    def look(self, settings: Mapping[str, Any]) -> None:
        """Make the backup that is due, if one is, and write the state down."""
        if not settings["enabled"]:
            self.say("BACKUPS=off: no backup is made")
            return
        self._say_schedule(settings)
        found, archived, error = Info(), Archive(), ""
        try:
            require_writable()
            found = prepared()
            archived = repository.archive(found.archive_id)
            if self._make_due(settings, found, archived):
                found = repository.info()
                archived = repository.archive(found.archive_id)
            error = self.failure or problem(found, archived, datetime.now(UTC))
        except RepositoryError as refusal:
            error = str(refusal)
        self.say(error)
        self._write(found, archived, error)

    def _make_due(self, settings: Mapping[str, Any], found: Info, archived: Archive) -> bool:
        """Make the backup that is due; return True if one was made."""
        now = datetime.now(UTC)
        kind = due(
            found.current,
            now,
            at=time_of_day.fromisoformat(settings["time_utc"]),
            full_every_days=settings["full_every_days"],
            reason_for_full=broken(found, archived, now, replicated=len(settings["suffixes"]) > 1),
        )
        if not kind:
            # The one that failed was made since, by an operator.
            self.failed_at, self.failure = -_AGAIN_SECONDS, ""
            return False
        if time.monotonic() - self.failed_at < _AGAIN_SECONDS:
            return False
        try:
            make(kind)
        except UnderWayError:
            return False
        except RepositoryError as error:
            # At the first time soon: a failover ends a backup that is under way.
            self.failed_at = time.monotonic() - (0.0 if self.failure else _AGAIN_SECONDS)
            self.failure = f"the {kind} backup failed: {error}"
            return False
        self.failed_at, self.failure = -_AGAIN_SECONDS, ""
        return True

    def _write(self, found: Info, archived: Archive, error: str) -> None:
        """Write the state into the database; only where it is another."""
        backups = found.current
        full = next((one for one in reversed(backups) if one.kind == "full"), None)
        state: dict[str, object] = {
            "last_at": backups[-1].stopped if backups else None,
            "last_full_at": full.stopped if full else None,
            "recoverable_from": backups[0].stopped if backups else None,
            "database_bytes": backups[-1].database_bytes if backups else None,
            "repository_bytes": None,
            "error": error,
        }
        # Each segment adds to it: written with the rest, or the state would be one too.
        if (values := tuple(state.values())) == self.written:
            return
        state["repository_bytes"] = archived.bytes + sum(one.repository_bytes for one in backups)
        record(state)
        self.written = values


def due(
    backups: Sequence[Backup],
    now: datetime,
    *,
    at: time_of_day,
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
    slot = _latest(now, at)
    if backups[-1].started >= slot:
        return ""
    return "full" if (slot.date() - full.started.date()).days >= full_every_days else "diff"


def _latest(now: datetime, at: time_of_day) -> datetime:
    """Return the latest moment with this time of day that is not after `now`."""
    today = datetime.combine(now.date(), at, now.tzinfo)
    return today if today <= now else today - timedelta(days=1)


def prepared() -> Info:
    """Return what is in the repository, which is made ready for the running cluster first.

    Raises:
        RepositoryError: it cannot be read, or is another cluster's.

    """
    found, running = repository.info(), repository.running_id(DATA)
    if found.system_id is None:
        repository.ask("stanza-create")
        return repository.info()
    if running is not None and running != found.system_id:
        raise RepositoryError(another_cluster(found.system_id, running))
    return found


def put_aside() -> None:
    """Make way for a new repository: what cannot be read any more goes into a directory beside it.

    Raises:
        RefusedError: it can be read, or is not in a directory.
        RepositoryError: it cannot be read for another reason than its key.

    """
    if not repository.is_directory():
        raise RefusedError(
            "only what is in a directory is put aside; give the new repository another BACKUP_PATH"
        )
    try:
        repository.info()
    except AnotherKeyError:
        aside = repository.DIRECTORY / f"unreadable-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        aside.mkdir()
        for part in ("archive", "backup"):
            with suppress(FileNotFoundError):
                (repository.DIRECTORY / part).rename(aside / part)
        log(f"what was there and cannot be read is now in its directory {aside.name}")
    else:
        raise RefusedError("the repository can be read; nothing is put aside")


def dsn() -> str:
    """Return how the primary is reached: by its user id in the operating system, no password.

    A commit does not wait for a standby, which would be for ever where none follows.
    """
    hosts = ",".join(f"/run/postgresql{suffix}" for suffix in repository.settings()["suffixes"])
    return (
        f"host={hosts} user=postgres dbname=risk connect_timeout=3 application_name=backup "
        "target_session_attrs=primary "
        "options='-c synchronous_commit=local -c statement_timeout=10s'"
    )


def another_cluster(held: int, running: int) -> str:
    """Return what to do where the repository is not the running cluster's."""
    return (
        f"the repository holds cluster {held}, the server is cluster {running}, which nothing is "
        f"archived of; to have the old one back: make restore CLUSTER={held} SWAP=yes; to go on "
        "with the new one: make backup NEW_CLUSTER=yes"
    )


def require_writable() -> None:
    """Raise RepositoryError where the repository's directory cannot be written, or is full."""
    if not repository.is_directory():
        return
    try:
        probe = repository.DIRECTORY / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RepositoryError(
            f"the repository cannot be written ({error.strerror}): BACKUP_DIRECTORY must belong to "
            "user and group 10070, and have room"
        ) from None


def broken(found: Info, archived: Archive, now: datetime, *, replicated: bool = False) -> str:
    """Return why no differential backup can follow the newest backup; empty when one can.

    With `replicated` servers each failover begins a timeline, which goes on from a backup that had
    ended before.
    """
    if not found.current:
        return ""
    newest = found.current[-1]
    if newest.has_errors:
        return f"backup {newest.label} has pages with a wrong checksum"
    if missing := repository.gaps(archived, newest.first, now):
        return f"segment {missing[0]} of the log is missing"
    has_begun = archived.timeline > newest.timeline
    if replicated:
        last = repository.segment_number(newest.last)
        later = [one for one in archived.segments if one.timeline > newest.timeline]
        has_begun = any(one.number <= last for one in later)
    if has_begun:
        return f"timeline {archived.timeline} has begun since"
    return ""


def problem(found: Info, archived: Archive, now: datetime) -> str:
    """Return what is wrong with what is there; empty when nothing is."""
    if full := too_full():
        return full
    if not found.current:
        return ""
    if missing := repository.gaps(archived, found.current[-1].first, now):
        return (
            f"{len(missing)} segments of the log are missing, the first is {missing[0]}: no "
            "restore can go past it until the next full backup"
        )
    if found.current[-1].has_errors:
        return f"backup {found.current[-1].label} has pages with a wrong checksum"
    return ""


def too_full() -> str:
    """Return what is wrong where a directory has no room; of others only they know."""
    if not repository.is_directory():
        return ""
    free = shutil.disk_usage(repository.DIRECTORY).free
    return f"the repository is full: {free >> 20} MB are free" if free < _FULL_BYTES else ""


def make(kind: str) -> None:
    """Make a backup; what is out of date goes with it.

    Raises:
        UnderWayError: another one is being made.
        RepositoryError: it failed.

    """
    log(f"making a {kind} backup")
    began = time.monotonic()
    # Below whatever else runs on this host.
    process = subprocess.Popen(
        ["nice", "-n", "19", *repository.command("backup", f"--type={kind}")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    while True:
        with suppress(subprocess.TimeoutExpired):
            printed, _ = process.communicate(timeout=_ALIVE_SECONDS)
            break
        _ALIVE.touch()
    if process.returncode:
        error = repository.error_line(printed, process.returncode)
        if any(line in error for line in _LOCKED):
            raise UnderWayError(
                "another backup is under way; make backups shows it when it is made"
            )
        raise RepositoryError(error)
    log(f"made in {time.monotonic() - began:.0f} s")


def log(line: str) -> None:
    """Say what happens, on standard error."""
    sys.stderr.write(f"{line}\n")


def record(state: Mapping[str, object]) -> None:
    """Write columns of sluice.backup_state.

    Raises:
        psycopg.Error: the server does not answer, or has no such table yet.

    """
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in state
    )
    with psycopg.connect(dsn(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("UPDATE sluice.backup_state SET {}").format(assignments), dict(state)
        )


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def end_on_signal(code: int) -> None:
    """Have SIGTERM end this process, which as process 1 of its container would not notice it."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(code)

    signal.signal(signal.SIGTERM, end)
