"""Restore the cluster to a moment, in a directory of its own, and look whether it is whole.

Everything that can refuse is looked at first. A server that nobody can reach but this process
recovers the cluster, is checked and stops; what it has written since is archived when the cluster
takes the place of the running one, not before.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg

from infra.backup import checks, drill, repository
from infra.backup.repository import CONFIG, STANZA, Archive, Backup, Info, RepositoryError
from infra.backup.serve import dsn, log
from infra.ops.outcome import Exit, FailedError, RefusedError
from infra.ops.waiting import wait_until

# Where the container has the volume that is restored into, and the running data to read.
TARGET: Final = Path("/var/lib/postgresql/data")
RUNNING: Final = "/running"
ROLES: Final = Path("/etc/sluice/roles.sql")
RECORD_NAME: Final = "restored.json"
_SOCKET: Final = "/tmp"  # noqa: S108  # the container's own tmpfs
_LOG: Final = Path("/tmp/restored.log")  # noqa: S108
# Beside the files of the backup: the log that is replayed, and what replaying it adds.
_ROOM_FACTOR: Final = 1.1
_ROOM_BYTES: Final = 512 << 20
_SWITCH_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 300
_POLL_SECONDS: Final = 0.1
_ENDS_BEFORE: Final = "recovery ended before configured recovery target was reached"
_LAST_COMMIT: Final = re.compile(r"last completed transaction was at log time (.+)")
_FATAL: Final = re.compile(r"(?:FATAL|PANIC):\s+(.*)")
_FORMS: Final = "2026-11-24 10:00:00+00, a time zone included"


class BadTimeError(ValueError):
    """What was given as TO is no moment; the message says why."""


@dataclass(slots=True)
class Restored:
    """What came of a restore: `target` as it was asked for, seconds as they were measured."""

    target: str
    backup: str
    system_id: str
    last_commit: str = ""
    timeline: int = 0
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    restore_seconds: float = 0.0
    recovery_seconds: float = 0.0
    check_seconds: float = 0.0


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


def require_room(backup: Backup, directory: Path) -> None:
    """Raise RefusedError where the volume has too little disk for the cluster."""
    needed = int(backup.database_bytes * _ROOM_FACTOR) + _ROOM_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RefusedError(
            f"the volume has {free >> 20} MB free, the restore takes {needed >> 20} MB: "
            f"{backup.database_bytes >> 20} MB of files and the log"
        )


def require_empty(directory: Path) -> None:
    """Raise RefusedError where something is in the volume."""
    entries = sorted(path.name for path in directory.iterdir() if path.name != "lost+found")
    if entries:
        raise RefusedError(f"the volume is not empty: {', '.join(entries[:3])}")


def run(to: str, cluster: str, timeline: str, marker: str = "") -> Restored:
    """Restore, recover and check; return what was found. `marker` is what a drill looks for.

    Raises:
        BadTimeError: `to` is no moment.
        RefusedError: something is not as it must be; nothing was written.
        FailedError: a step failed; the directory holds what it has come to.

    """
    target = moment(to) if to else None
    require_empty(TARGET)
    try:
        found = repository.info()
        running = repository.running_id(RUNNING)
        wanted = require_cluster(found, running, cluster)
        asked, archive_id = require_timeline(timeline), found.archive_of(wanted)
        archived = repository.archive(archive_id, asked)
        if asked > archived.timeline:
            raise RefusedError(
                f"TIMELINE={asked} is not in the repository; the newest is {archived.timeline}"
            )
        backup = choose(found, archived, wanted, target)
        now = datetime.now(UTC)
        if target and target > now:
            raise RefusedError(f"TO={shown(target)} is in the future; now is {shown(now)}")
        require_room(backup, TARGET)
        if (target is None or _is_late(archived, target)) and running == wanted:
            archived = _archive_the_rest(archive_id, archived)
        require_window(archived, target)
        require_no_gap(archived, backup, target, now)
    except RepositoryError as error:
        raise RefusedError(str(error)) from error
    return _restore(backup, target, timeline, marker)


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


def _is_late(archived: Archive, target: datetime) -> bool:
    return archived.until is None or target > archived.until


def _archive_the_rest(archive_id: str, archived: Archive) -> Archive:
    """Have a server that runs archive what it has, so that the log reaches until now."""
    try:
        with psycopg.connect(dsn(), autocommit=True) as connection:
            row = connection.execute(
                "SELECT pg_walfile_name(pg_switch_wal()) WHERE NOT pg_is_in_recovery()"
            ).fetchone()
    except psycopg.Error:
        return archived
    if row is None:
        return archived
    log("the server runs: waiting until its log is archived")
    # Nothing new in it: there was no segment to switch to.
    newest = repository.segment_number(row[0]) - 1

    def has_come() -> Archive:
        return repository.archive(archive_id, archived.target)

    return wait_until(
        has_come,
        lambda one: max((each.number for each in one.segments), default=-1) >= newest,
        seconds=_SWITCH_SECONDS,
        every=0.5,
    )


def _restore(backup: Backup, target: datetime | None, timeline: str, marker: str) -> Restored:
    done = Restored(shown(target), backup.label, str(backup.system_id))
    log(f"restoring backup {backup.label}, {backup.database_bytes >> 20} MB")
    cluster = TARGET / "17"
    with _timed(done, "restore_seconds"):
        cluster.mkdir(mode=0o700)
        try:
            repository.ask(
                "restore", f"--set={backup.label}", "--type=none", f"--pg1-path={cluster}",
                seconds=None,
            )  # fmt: skip
        except RepositoryError as error:
            raise FailedError(f"the restore failed: {error}") from error
    # Not of the restored cluster: those of an entrypoint that ran before the backup.
    (cluster / "sluice_roles.sha256").unlink(missing_ok=True)
    log(f"recovering to {done.target}")
    with _timed(done, "recovery_seconds"):
        _recover(cluster, target, timeline, done)
    with _timed(done, "check_seconds"):
        log("checking")
        try:
            done.found = checks.look(_SOCKET, done.faults, done.warnings)
            if marker and not drill.is_there(_SOCKET, marker):
                done.faults.append("the row that the drill had committed is not there")
            _apply_roles(cluster)
        finally:
            _stop(cluster)
        _checksums(cluster, done)
    (TARGET / RECORD_NAME).write_text(json.dumps(asdict(done)) + "\n", encoding="utf-8")
    return done


@contextmanager
def _timed(done: Restored, name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    setattr(done, name, round(time.monotonic() - began, 1))


def _recover(cluster: Path, target: datetime | None, timeline: str, done: Restored) -> None:
    options = [
        f'restore_command=pgbackrest --config={CONFIG} --stanza={STANZA} archive-get %f "%p"',
        f"recovery_target_timeline={timeline or 'latest'}",
        "recovery_target_action=promote",
    ]
    if target is not None:
        options.append(f"recovery_target_time={target.isoformat()}")
    if not _start(cluster, options):
        log = _LOG.read_text(encoding="utf-8", errors="replace")
        if _ENDS_BEFORE not in log:
            raise FailedError(f"the restored server did not start: {_reason(log)}")
        # All of the log was replayed, and nothing in it is later than the target.
        done.warnings.append(
            f"the log ends before {done.target}: what was committed between its last transaction "
            "and then, if anything was, is not in the archive"
        )
        if not _start(cluster, options[:-1]):
            log = _LOG.read_text(encoding="utf-8", errors="replace")
            raise FailedError(f"the restored server did not start: {_reason(log)}")
    log = _LOG.read_text(encoding="utf-8", errors="replace")
    if commits := _LAST_COMMIT.findall(log):
        done.last_commit = commits[-1]
    with _connect("postgres") as connection:
        # Not of the last checkpoint, which may be older than the promotion.
        row = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
        done.timeline = int(row[0][:8], 16) if row else 0


def _start(cluster: Path, options: Sequence[str]) -> bool:
    """Start the server for recovery; return False where it ended instead of answering."""
    (cluster / "recovery.signal").touch()
    _LOG.unlink(missing_ok=True)
    everything = [
        *("listen_addresses=", f"unix_socket_directories={_SOCKET}", "hot_standby=off"),
        # Its log is archived when it takes the place of the running server: not by this one.
        *("archive_mode=on", "archive_command=", "ssl=off", "log_min_messages=log"),
        # For itself alone, in a container that is small.
        *("shared_buffers=128MB", "max_connections=20", "superuser_reserved_connections=3"),
        *("reserved_connections=0", "huge_pages=off", "autovacuum=off", "max_wal_senders=0"),
        *options,
    ]
    arguments = [part for one in everything for part in ("-c", one)]
    with _LOG.open("wb") as log:
        process = subprocess.Popen(
            ["postgres", "-D", str(cluster), "-c", "config_file=/etc/sluice/postgresql.conf",
             "-c", f"hba_file={_hba()}", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    while process.poll() is None:
        with suppress(psycopg.Error), _connect("postgres"):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _hba() -> Path:
    path = Path(_SOCKET) / "pg_hba.conf"
    path.write_text("local all postgres peer\n", encoding="ascii")
    return path


def _connect(database: str) -> psycopg.Connection[Any]:
    return checks.connect(_SOCKET, database)


def _reason(log: str) -> str:
    found = _FATAL.findall(log)
    return found[-1] if found else (log.strip().splitlines() or ["no line in its log"])[-1]


def _apply_roles(cluster: Path) -> None:
    """Give the roles today's passwords and limits, as the server's entrypoint does."""
    done = subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--host={_SOCKET}",
         "--username=postgres", "--dbname=postgres", f"--file={ROLES}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FailedError(f"today's roles could not be applied: {done.stderr.strip()[-300:]}")
    digest = subprocess.run(
        ["sha256sum"], stdin=ROLES.open("rb"), capture_output=True, text=True, check=True
    )
    (cluster / "sluice_roles.sha256").write_text(digest.stdout, encoding="ascii")


def _stop(cluster: Path) -> None:
    subprocess.run(
        ["pg_ctl", "stop", "--wait", "--mode=fast", "--silent", f"--timeout={_STOP_SECONDS}",
         f"--pgdata={cluster}"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip


def _checksums(cluster: Path, done: Restored) -> None:
    checked = subprocess.run(
        ["pg_checksums", "--check", f"--pgdata={cluster}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if checked.returncode:
        lines = checked.stderr.strip().splitlines() or [f"exit code {checked.returncode}"]
        done.faults += [f"page checksums: {line}" for line in lines[:5]]


def require_swappable() -> None:
    """Raise RefusedError unless the volume holds a restored cluster that was found whole.

    Of its timeline nothing may be in the archive: two clusters would write the same segments.
    """
    try:
        record = json.loads((TARGET / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RefusedError("the volume holds nothing that make restore has finished") from None
    if record["faults"]:
        raise RefusedError(f"what was restored is not whole: {record['faults'][0]}")
    cluster = TARGET / "17"
    if repository.system_id(cluster) is None or (cluster / "postmaster.pid").exists():
        raise RefusedError("the restored cluster is not there, or a server runs on it")
    # Not of the cluster that is archived now: with CLUSTER another one was restored.
    archive_id = repository.info().archive_of(int(record["system_id"]))
    if not archive_id:
        return
    archived = repository.archive(archive_id)
    if archived.timeline >= record["timeline"]:
        raise RefusedError(
            f"timeline {record['timeline']} of the restored cluster has been taken since by "
            "another; restore again"
        )


def exit_code(done: Restored) -> int:
    """Return the exit code of a restore that came to its end."""
    return Exit.FAILED if done.faults else Exit.OK
