"""The repository: what pgBackRest says is in it, and how it is asked."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

STANZA: Final = "sluice"
CONFIG: Final = Path("/etc/sluice/pgbackrest.conf")
SETTINGS: Final = Path("/etc/sluice/backups.json")
DIRECTORY: Final = Path("/var/lib/pgbackrest")
# What pgBackRest says of itself when it is asked; a backup may take as long as it takes.
ASK_SECONDS: Final = 120.0
SEGMENT_BYTES: Final = 16 << 20
_SEGMENTS_PER_LOG: Final = (1 << 32) // SEGMENT_BYTES
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}")
_HISTORY: Final = re.compile(r"([0-9A-F]{8})\.history")
# What is in one: a timeline, and where the next one leaves it.
_LEFT: Final = re.compile(r"^(\d+)\s+([0-9A-F]+)/([0-9A-F]+)\b", re.MULTILINE)
# Segments are pushed side by side: one that is missing may be on its way.
_SETTLED_SECONDS: Final = 120.0
# What pgBackRest calls the content of a file that was written with another key.
_DECRYPTED_TO_NOTHING: Final = ("FormatError", "CryptoError")
_ANOTHER_KEY: Final = (
    "the repository cannot be read with this key; put back the one that it was written with (make "
    "backup-key FROM=directory), or, if that is lost: make backup NEW_REPOSITORY=yes"
)
# Its errors begin with this, a code, and have hints in lines of their own.
_ERROR: Final = re.compile(r"^(?:.*P\d\d\s+)?ERROR: (?:\[\d+\]: )?", re.MULTILINE)


class RepositoryError(Exception):
    """PgBackRest refused or failed; the message is its own, in one line."""


class AnotherKeyError(RepositoryError):
    """What is in the repository was written with another key."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup: times in UTC, sizes in bytes; `first` and `last` are segments of the log."""

    label: str
    kind: str
    started: datetime
    stopped: datetime
    database_bytes: int
    repository_bytes: int
    first: str
    last: str
    system_id: int
    archive_id: str
    has_errors: bool

    @property
    def timeline(self) -> int:
        """The timeline that it ended on."""
        return int(self.last[:8], 16)


@dataclass(frozen=True, slots=True)
class Info:
    """What is in the repository; `system_id` is the cluster's that it archives now."""

    backups: tuple[Backup, ...] = ()
    system_id: int | None = None
    archive_id: str = ""

    @property
    def current(self) -> tuple[Backup, ...]:
        """The backups of the cluster that is archived now."""
        return tuple(one for one in self.backups if one.system_id == self.system_id)

    def archive_of(self, system_id: int) -> str:
        """Return the id of the archive of a cluster; empty where there is none."""
        of = (one.archive_id for one in reversed(self.backups) if one.system_id == system_id)
        return next(of, self.archive_id if system_id == self.system_id else "")


@dataclass(frozen=True, slots=True)
class Segment:
    """One archived segment of the log: its timeline, its number, and when it came."""

    timeline: int
    number: int
    at: datetime
    bytes: int

    @property
    def name(self) -> str:
        """The name of its file in pg_wal."""
        log, segment = divmod(self.number, _SEGMENTS_PER_LOG)
        return f"{self.timeline:08X}{log:08X}{segment:08X}"


@dataclass(frozen=True, slots=True)
class Archive:
    """The archived log, in order, and the timelines whose history is there.

    `target` is the timeline that a restore goes to, the newest where it is 0; `ends` are those that
    lead to it, each with the number of the segment in which the next one begins.
    """

    segments: tuple[Segment, ...] = ()
    histories: tuple[int, ...] = ()
    target: int = 0
    ends: Mapping[int, int] = field(default_factory=dict)

    @property
    def until(self) -> datetime | None:
        """When the newest segment came."""
        return max((one.at for one in self.segments), default=None)

    @property
    def timeline(self) -> int:
        """The newest timeline; 0 without a segment."""
        return max((*self.histories, *(one.timeline for one in self.segments)), default=0)

    @property
    def bytes(self) -> int:
        """What the log takes in the repository."""
        return sum(one.bytes for one in self.segments)

    @property
    def lineage(self) -> dict[int, int | None]:
        """The timelines up to the target, each with its end as in `ends`; the target has none."""
        target = self.target or self.timeline
        ends = self.ends
        if not ends:
            # Where the history is not there each goes on from the one before it.
            firsts: dict[int, int] = {}
            for one in self.segments:
                if one.timeline <= target:
                    firsts.setdefault(one.timeline, one.number)
            ends = {before: firsts[after] for before, after in pairwise(firsts)}
        return {**ends, target: None}

    def leads_from(self, backup: Backup) -> bool:
        """Return True if the log goes from the end of this backup to the target."""
        if not self.target and not self.timeline:
            return True
        end = self.lineage.get(backup.timeline, 0)
        return end is None or segment_number(backup.last) < end


def settings() -> dict[str, Any]:
    """Return backups.json (infra/config/documents.py)."""
    document: dict[str, Any] = json.loads(SETTINGS.read_text(encoding="utf-8"))
    return document


def is_directory() -> bool:
    """Return True if the repository is a directory that this container has."""
    return bool(settings()["directory"])


def command(*arguments: str) -> list[str]:
    """Return the command line of pgBackRest with these arguments."""
    return ["pgbackrest", f"--config={CONFIG}", f"--stanza={STANZA}", *arguments]


def ask(*arguments: str, seconds: float | None = ASK_SECONDS) -> str:
    """Run pgBackRest and return what it prints.

    Raises:
        RepositoryError: it failed, or was not done within `seconds`.

    """
    try:
        done = subprocess.run(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # With another key it prints what it has decrypted, which is no text.
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RepositoryError(f"{arguments[-1]}: not done after {seconds:g} s") from None
    if done.returncode:
        raise RepositoryError(error_line(done.stdout + done.stderr, done.returncode))
    return done.stdout


def error_line(printed: str, code: int) -> str:
    """Return the error in what pgBackRest has printed, as one line."""
    _, _, last = printed.rpartition("ERROR: ") if "ERROR: " in printed else ("", "", "")
    lines = [line.strip() for line in re.sub(r"^\[\d+\]: ", "", last).splitlines()]
    kept = " ".join(line for line in lines if line and not re.search(r"P\d\d\s+(INFO|WARN)", line))
    return kept or f"exit code {code}"


def info() -> Info:
    """Return what is in the repository; empty where there is none yet.

    Raises RepositoryError where it cannot be read; AnotherKeyError where that is for its key.
    """
    return parse_info(json.loads(ask("info", "--output=json"), strict=False))


def parse_info(document: list[Mapping[str, Any]]) -> Info:
    """Return what `info --output=json` says.

    Raises RepositoryError where a repository is there and cannot be read.
    """
    stanza = next((one for one in document if one["name"] == STANZA), None)
    if stanza is None:
        return Info()
    for one in stanza.get("repo", ()):
        # 0: ok; 1..3: nothing in it yet.
        if one["status"]["code"] not in (0, 1, 2, 3):
            message = " ".join(one["status"]["message"].split())
            if any(word in message for word in _DECRYPTED_TO_NOTHING):
                raise AnotherKeyError(_ANOTHER_KEY)
            raise RepositoryError(message)
    clusters = {
        one["id"]: (int(one["system-id"]), f"{one['version']}-{one['id']}")
        for one in stanza.get("db", ())
    }
    if not clusters:
        return Info()
    found = (_backup(one, *clusters[one["database"]["id"]]) for one in stanza.get("backup", ()))
    ordered = sorted(found, key=lambda one: one.stopped)
    return Info(tuple(ordered), *clusters[max(clusters)])


def _backup(row: Mapping[str, Any], cluster: int, archive_id: str) -> Backup:
    stored = row["info"]["repository"]
    return Backup(
        label=row["label"],
        kind=row["type"],
        started=datetime.fromtimestamp(row["timestamp"]["start"], UTC),
        stopped=datetime.fromtimestamp(row["timestamp"]["stop"], UTC),
        database_bytes=row["info"]["size"],
        repository_bytes=stored.get("delta", stored.get("size", 0)),
        first=row["archive"]["start"],
        last=row["archive"]["stop"],
        system_id=cluster,
        archive_id=archive_id,
        has_errors=bool(row.get("error")),
    )


def archive(archive_id: str, timeline: int = 0) -> Archive:
    """Return the archived log of one cluster, as it leads to a timeline; 0: to the newest."""
    listed = ask("repo-ls", "--recurse", "--output=json", f"archive/{STANZA}/{archive_id}")
    found = parse_archive(json.loads(listed))
    target = timeline or found.timeline
    ends = _ends(archive_id, target) if target in found.histories else {}
    return replace(found, target=target, ends=ends)


# The history of a timeline never changes.
@cache
def _ends(archive_id: str, timeline: int) -> dict[int, int]:
    return parse_history(ask("repo-get", f"archive/{STANZA}/{archive_id}/{timeline:08X}.history"))


def parse_history(text: str) -> dict[int, int]:
    """Return what the history of a timeline says, as `Archive.ends` holds it."""
    return {
        int(timeline): ((int(high, 16) << 32) + int(low, 16)) // SEGMENT_BYTES
        for timeline, high, low in _LEFT.findall(text)
    }


def parse_archive(listed: Mapping[str, Mapping[str, Any]]) -> Archive:
    """Return what `repo-ls --output=json` lists below the archive."""
    segments, histories = [], []
    for path, row in listed.items():
        name = path.rpartition("/")[2]
        if match := _SEGMENT.match(name):
            timeline, log, segment = (int(part, 16) for part in match.groups())
            at = datetime.fromtimestamp(row["time"], UTC)
            number = log * _SEGMENTS_PER_LOG + segment
            segments.append(Segment(timeline, number, at, int(row["size"])))
        elif match := _HISTORY.match(name):
            histories.append(int(match[1], 16))
    ordered = sorted(segments, key=lambda one: (one.timeline, one.number))
    return Archive(tuple(ordered), tuple(sorted(histories)))


def gaps(found: Archive, since: str, now: datetime) -> tuple[str, ...]:
    """Return the segments that are missing after `since`, the first segment of a backup.

    What lies between two that are there on the way to the target's end, also where one timeline
    ends and the next begins; not what may still be on its way.
    """
    return tuple(_gaps(found, int(since[:8], 16), segment_number(since), now))


def _gaps(found: Archive, timeline: int, first: int, now: datetime) -> Iterator[str]:
    present = {(one.timeline, one.number): one for one in found.segments}
    missing: list[str] = []
    for of, number in _needed(found, timeline, first):
        one = present.get((of, number))
        if one is None:
            missing.append(Segment(of, number, now, 0).name)
            continue
        if (now - one.at).total_seconds() >= _SETTLED_SECONDS:
            yield from missing
        missing.clear()


def _needed(found: Archive, timeline: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield timeline and number of every segment from a first one to the end of the target."""
    lineage = found.lineage
    if timeline not in lineage:
        return
    for of, end in sorted(lineage.items()):
        if of < timeline:
            continue
        if end is None:
            end = max((one.number for one in found.segments if one.timeline == of), default=-1) + 1
        for each in range(number, end):
            yield of, each
        number = max(number, end)


def holes(
    backups: Sequence[Backup], found: Archive, now: datetime
) -> tuple[tuple[datetime, datetime | None], ...]:
    """Return the times that no restore can go to, because segments between them are missing.

    Each is from the last segment before to the end of the next backup; None: there is none yet.
    """
    backups = [one for one in backups if found.leads_from(one)]
    if not backups:
        return ()
    pairs: dict[datetime, datetime | None] = {}
    for name in gaps(found, backups[0].first, now):
        number = segment_number(name)
        before = [one.at for one in found.segments if one.number < number]
        after = [one.stopped for one in backups if segment_number(one.first) > number]
        pairs[max(before, default=backups[0].stopped)] = min(after, default=None)
    return tuple(sorted(pairs.items(), key=lambda pair: pair[0]))


def segment_number(name: str) -> int:
    """Return the number of a segment by the name of its file."""
    return int(name[8:16], 16) * _SEGMENTS_PER_LOG + int(name[16:24], 16)


def running_id(mounted: str) -> int | None:
    """Return the identity of the running cluster, whose data directories are mounted here."""
    found = (system_id(Path(f"{mounted}{suffix}/17")) for suffix in settings()["suffixes"])
    return next((one for one in found if one is not None), None)


def system_id(cluster: Path) -> int | None:
    """Return the identity of the cluster in a data directory; None where there is none."""
    try:
        return int.from_bytes((cluster / "global" / "pg_control").read_bytes()[:8], "little")
    except OSError:
        return None
