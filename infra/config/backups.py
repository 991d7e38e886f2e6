"""The repository of the backups: what its kinds take of settings and secrets, and its rules."""

from collections.abc import Iterator
from typing import Final

from infra.config import resources
from infra.config.faults import Fault
from infra.config.secrets import BACKUP_KEY, SecretError, SecretStore, backup_key
from infra.config.settings import Values
from infra.config.times import shown

# What has no value where it is not needed.
NONE: Final = "none"
# The network of compose.yaml that has a way out.
UPLINK: Final = "uplink"
# Of S3, where its certificate is not of a public authority.
CA: Final = "backup.ca"
# By the value of BACKUP_REPOSITORY: secrets that only an operator can give, and settings.
GIVEN: Final = {
    "directory": (),
    "s3": ("backup.s3-key", "backup.s3-key-secret"),
    "sftp": ("backup.sftp-key",),
}
SECRETS: Final = (BACKUP_KEY, *(name for names in GIVEN.values() for name in names), CA)
_SETTINGS: Final = {
    "directory": (),
    "s3": ("BACKUP_HOST", "BACKUP_BUCKET"),
    "sftp": ("BACKUP_HOST", "BACKUP_HOST_KEY_SHA256"),
}
GIVE: Final = "make backup-key FROM=directory"


def repository(values: Values) -> Iterator[str]:
    """Check that the repository's kind has what it takes, and a way to it."""
    kind = values.text("BACKUP_REPOSITORY")
    for name in _SETTINGS[kind]:
        if values.text(name) == NONE:
            yield f"{shown(values, 'BACKUP_REPOSITORY')} takes {name}, which has no value"
    is_out = values.text("BACKUP_NETWORK") == UPLINK
    if is_out != (kind != "directory"):
        wanted = UPLINK if kind != "directory" else "backups"
        yield (
            f"{shown(values, 'BACKUP_REPOSITORY', 'BACKUP_NETWORK')}: PostgreSQL and the backups "
            f"would {'have no way to' if not is_out else 'need no way out for'} the repository; "
            f"set BACKUP_NETWORK={wanted}"
        )


def queue(values: Values) -> Iterator[str]:
    """Check that the log that waits for the repository leaves the data their space."""
    half = values.integer("POSTGRES_DISK_MB") // 2
    if values.integer("BACKUP_QUEUE_MB") + resources.wal_demand_mb(values) > half:
        yield (
            f"{shown(values, 'BACKUP_QUEUE_MB')} + {shown(values, 'POSTGRES_MAX_WAL_MB')} x "
            f"{resources.wal_factor(values)} exceeds {half} MB, half of "
            f"{shown(values, 'POSTGRES_DISK_MB')}; the log that waits for the repository "
            "would take the space of the data; lower it"
        )


def secrets(store: SecretStore, values: Values) -> tuple[dict[str, str], list[Fault]]:
    """Return the secrets of the repository by file name, and a fault for each that is missing."""
    key, faults = backup_key(store)
    found = {BACKUP_KEY: key}
    wanted = GIVEN.get(str(values.as_dict().get("BACKUP_REPOSITORY")), ())
    # That of a certificate which no public authority has signed.
    for name in (*wanted, CA) if wanted else ():
        try:
            content = store.read(name)
        except SecretError as error:
            faults.append(store.fault(name, str(error)))
            continue
        if content:
            found[name] = content.decode("utf-8", "replace")
        elif name != CA:
            faults.append(store.fault(name, f"is missing; the repository takes it: {GIVE}"))
    return found, faults
