"""Settings of the backups: whether, when, where to, how long, and what they may take."""

import re
from decimal import Decimal
from typing import Final

from infra.config.settings import Change, Derivation, Form, Setting, Tier, Values

# The value of BACKUP_DIRECTORY that is the volume of that name in compose.yaml.
VOLUME: Final = "backups"
_TIME: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
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


def _path(text: str) -> str:
    if text == VOLUME:
        raise ValueError("is no path")
    return _directory(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("is no name or address")
    return text


def _hash(text: str) -> str:
    if text != "none" and not _HASH.fullmatch(text):
        raise ValueError("is no SHA-256")
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
        name="BACKUP_REPOSITORY",
        tier=Tier.BACKUP,
        meaning="Kind of the place where backups are kept: a directory, S3 or what speaks its "
        "protocol, or an SFTP server.",
        unit="kind",
        choices=("directory", "s3", "sftp"),
        rule="s3 and sftp take BACKUP_HOST, BACKUP_NETWORK=uplink and secrets: docs/backups.md",
        default="directory",
        change=Change.RECREATE,
    ),
    Setting(
        name="BACKUP_HOST",
        tier=Tier.BACKUP,
        meaning="The S3 endpoint, or the SFTP server.",
        unit="host",
        form=Form("a name or an IPv4 address, or none", _name),
        default="none",
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_PORT",
        tier=Tier.BACKUP,
        meaning="Its port; 0 is 443 for S3 and 22 for SFTP.",
        unit="port",
        minimum=0,
        maximum=65_535,
        default=0,
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_PATH",
        tier=Tier.BACKUP,
        meaning="Directory in the bucket, or on the SFTP server.",
        unit="path",
        form=Form("an absolute path of letters, digits and ._@+-", _path),
        default="/sluice",
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_BUCKET",
        tier=Tier.BACKUP,
        meaning="The bucket of S3; it must exist.",
        unit="name",
        form=Form("the name of a bucket, or none", _name),
        default="none",
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_REGION",
        tier=Tier.BACKUP,
        meaning="The region of S3.",
        unit="name",
        form=Form("the name of a region", _name),
        default="us-east-1",
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_USER",
        tier=Tier.BACKUP,
        meaning="The user on the SFTP server, who owns BACKUP_PATH there.",
        unit="name",
        form=Form("the name of a user", _name),
        default="sluice",
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_HOST_KEY_SHA256",
        tier=Tier.BACKUP,
        meaning="SHA-256 of the SFTP server's host key, by which it is known.",
        unit="digest",
        form=Form("64 digits 0-9a-f, or none", _hash),
        default="none",
        change=Change.LIVE,
    ),
    Setting(
        name="BACKUP_NETWORK",
        tier=Tier.BACKUP,
        meaning="Network of PostgreSQL and the backups: backups has nobody else on it and no way "
        "out, uplink has one.",
        unit="network",
        choices=("backups", "uplink"),
        rule="uplink for BACKUP_REPOSITORY=s3 and sftp, and only for them",
        default="backups",
        change=Change.RECREATE,
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
        rule="with twice POSTGRES_MAX_WAL_MB, or three times with three instances, at most half of "
        "POSTGRES_DISK_MB",
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
        default=Decimal("0.2"),
        change=Change.RECREATE,
    ),
)
