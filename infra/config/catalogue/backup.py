"""Settings of the backups: whether, when, where to, how long, and what they may take."""

import re
from decimal import Decimal
from typing import Final

from infra.config.settings import Change, Derivation, Form, Setting, Tier, Values

# The value of BACKUP_DIRECTORY that is the volume of that name in compose.yaml.
VOLUME: Final = "backups"
_TIME: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
_PATH: Final = re.compile(r"(?:/[\w.@+-]+)+", re.ASCII)


def _time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise ValueError("is no time of day")
    return text


def _directory(text: str) -> str:
    if text != VOLUME and not _PATH.fullmatch(text):
        raise ValueError("is no absolute path of letters, digits and ._@+-")
    if ".." in text.split("/"):
        raise ValueError("leads upwards")
    return text


def _queue(values: Values) -> Decimal:
    share = values.number("POSTGRES_DISK_MB") / 4 - 2 * values.number("POSTGRES_MAX_WAL_MB")
    return share.to_integral_value()


SETTINGS: Final = (
    Setting(
        name="BACKUPS",
        tier=Tier.BACKUP,
        meaning="Whether the log is archived and backups are made.",
        unit="choice",
        choices=("on", "off"),
        default="on",
        change=Change.RESTART_POSTGRES,
        rule="with off, what is lost stays lost",
        listed=True,
    ),
    Setting(
        name="BACKUP_DIRECTORY",
        tier=Tier.BACKUP,
        meaning="Where they are kept: the volume backups, or a directory of this host, better on "
        "another machine's disk; it must belong to the user and group 10070.",
        unit="place",
        form=Form("backups, or an absolute path of letters, digits and ._@+-", _directory),
        default=VOLUME,
        change=Change.RECREATE,
        rule="another place begins anew: a full backup, and none of those before it",
    ),
    Setting(
        name="BACKUP_TIME_UTC",
        tier=Tier.BACKUP,
        meaning="Time of day at which a backup is made; one that was missed is made as soon as it "
        "can be.",
        unit="time",
        form=Form("HH:MM, 00:00..23:59", _time),
        default="02:30",
        change=Change.LIVE,
        listed=True,
    ),
    Setting(
        name="BACKUP_FULL_EVERY_DAYS",
        tier=Tier.BACKUP,
        meaning="Days from one full backup to the next; on the others it is a differential one.",
        unit="days",
        minimum=1,
        maximum=90,
        default=7,
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_KEEP_DAYS",
        tier=Tier.BACKUP,
        meaning="How far back a restore can go; the full backup that this takes may be older.",
        unit="days",
        minimum=1,
        maximum=3650,
        default=14,
        change=Change.LIVE,
        listed=True,
    ),
    Setting(
        name="BACKUP_ARCHIVE_TIMEOUT_SECONDS",
        tier=Tier.BACKUP,
        meaning="Longest time until what was committed is on its way to the repository; each time "
        "costs a small file (archive_timeout).",
        unit="seconds",
        minimum=5,
        maximum=3600,
        default=60,
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_QUEUE_MB",
        tier=Tier.BACKUP,
        meaning="Log that waits for the repository on the data volume; beyond it the log is given "
        "up, which leaves a gap that a restore cannot pass, until the next full backup.",
        unit="MB",
        minimum=128,
        maximum=1_073_741_824,
        default=3072,
        change=Change.LIVE,
        rule="with twice POSTGRES_MAX_WAL_MB at most half of POSTGRES_DISK_MB",
        derivation=Derivation(
            ("POSTGRES_DISK_MB", "POSTGRES_MAX_WAL_MB"),
            "POSTGRES_DISK_MB / 4 - 2 x POSTGRES_MAX_WAL_MB",
            _queue,
        ),
    ),
    Setting(
        name="BACKUP_PROCESSES",
        tier=Tier.BACKUP,
        meaning="Processes that copy and compress at once (process-max).",
        unit="processes",
        minimum=1,
        maximum=64,
        default=1,
        change=Change.LIVE,
        rule="BACKUP_CPUS bounds them together",
    ),
    Setting(
        name="BACKUP_COMPRESS_LEVEL",
        tier=Tier.BACKUP,
        meaning="How hard Zstandard compresses: higher is smaller and slower.",
        unit="level",
        minimum=1,
        maximum=19,
        default=3,
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_CPUS",
        tier=Tier.BACKUP,
        meaning="Processor limit of the container that makes backups; it bounds what they take of "
        "disks and network too.",
        unit="processors",
        minimum=Decimal("0.1"),
        maximum=Decimal("256"),
        default=Decimal("0.5"),
        change=Change.RECREATE,
    ),
)
