"""One compile: read, check, derive, gather secrets, render, and only then write."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from infra.config import (
    backups,
    certificates,
    clients,
    envfile,
    extra,
    names,
    recovery,
    rules,
    secrets,
    sizing,
)
from infra.config.certificates import Validity
from infra.config.envfile import assign
from infra.config.faults import Fault, FaultyInputError
from infra.config.render import Inputs, Rendered, render
from infra.config.secrets import SecretStore
from infra.config.settings import Values

ENV_FILE_NAME = "stack.env"
# What faults call the file, wherever it is mounted: the path an operator edits.
ENV_FILE_SHOWN = "infra/env/stack.env"


@dataclass(frozen=True, slots=True)
class Checked:
    """An env file judged: its usable values, every fault and every warning."""

    values: Values
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """Everything that is to be written, and what the operator should know."""

    files: tuple[Rendered, ...]
    new_secrets: dict[str, bytes] = field(repr=False)
    warnings: tuple[Fault, ...]


def check(path: Path, *, shown: str = ENV_FILE_SHOWN) -> Checked:
    """Judge an env file, and the files beside it, against table and budget; touch nothing."""
    assigned = assign(envfile.read(path, name=shown))
    parameters, more = extra.read(path, shown)
    applications = clients.read(path, shown)
    values = assigned.values.with_changes(parameters).joined(applications.values)
    faults = (
        *assigned.faults,
        *more,
        *applications.faults,
        *rules.faults(values, file=shown),
    )
    return Checked(values, faults, rules.warnings(values, file=shown))


def check_secrets(
    checked: Checked,
    secrets_dir: Path,
    *,
    now: datetime.datetime,
    out: Path | None = None,
    has_data: bool = False,
) -> Checked:
    """Judge also the secrets and certificates that are there now; write nothing.

    `out` is where the files of the last compile are; `has_data` is True where there is a database.
    """
    if out and (lost := recovery.fault(secrets_dir, out, has_data=has_data)):
        return Checked(checked.values, (*checked.faults, lost), checked.warnings)
    store, validity = SecretStore(secrets_dir), _validity(checked.values, now)
    due = certificates.warnings(store, validity)
    _, faults = certificates.certificates(store, validity)
    faults = [*faults, *backups.secrets(store, checked.values)[1]]
    known = {fault.file for fault in faults}
    return Checked(
        checked.values,
        (*checked.faults, *faults),
        (*checked.warnings, *(one for one in due if one.file not in known)),
    )


def compile_stack(
    path: Path,
    secrets_dir: Path,
    *,
    now: datetime.datetime,
    out: Path | None = None,
    shown: str = ENV_FILE_SHOWN,
) -> Compiled:
    """Return every file of the stack, or raise FaultyInputError with all faults at once.

    With `out`, the files of the last compile, secrets that were lost are a fault, not made anew.
    """
    checked = check(path, shown=shown)
    if out and (lost := recovery.fault(secrets_dir, out)):
        raise FaultyInputError((*checked.faults, lost))
    return _compile(checked, secrets_dir, now)


def compile_values(
    values: Values,
    secrets_dir: Path,
    *,
    now: datetime.datetime,
    changes: Mapping[str, bytes | None] = MappingProxyType({}),
) -> Compiled:
    """Return every file of the stack for values that were judged before.

    `changes` are secrets by file name that count instead of those in the directory, and are
    among the new secrets of the outcome; None is one that counts as missing.

    Raises FaultyInputError for secrets or certificates that cannot be used.
    """
    return _compile(Checked(values, (), ()), secrets_dir, now, changes)


def _compile(
    checked: Checked,
    secrets_dir: Path,
    now: datetime.datetime,
    changes: Mapping[str, bytes | None] = MappingProxyType({}),
) -> Compiled:
    store = SecretStore(secrets_dir)
    for name, content in changes.items():
        if content is None:
            store.hide(name)
        else:
            store.put(name, content)
    passwords, faults = secrets.passwords(store, tuple(clients.logins(checked.values)))
    verifiers, more = secrets.verifiers(store, passwords)
    tokens, bad_tokens = secrets.tokens(store)
    backup_secrets, bad_key = backups.secrets(store, checked.values)
    validity = _validity(checked.values, now)
    pairs, others = certificates.certificates(store, validity)
    faults = [*checked.faults, *faults, *more, *bad_tokens, *bad_key, *others]
    if faults or pairs is None:
        raise FaultyInputError(faults)
    expiry = certificates.expiry(store, validity.servers)
    cluster_id = secrets.cluster_id(store, replicated=sizing.is_replicated(checked.values))
    inputs = Inputs(
        checked.values, passwords, verifiers, tokens, backup_secrets, pairs, expiry, cluster_id
    )
    warnings = (*checked.warnings, *certificates.warnings(store, validity))
    return Compiled(render(inputs), store.pending, warnings)


def _validity(values: Values, now: datetime.datetime) -> Validity:
    """With a faulty certificate setting nothing is written, so any days serve to find faults."""
    known = values.as_dict()
    days, renew = known.get("CERTIFICATE_DAYS"), known.get("CERTIFICATE_RENEW_DAYS")
    if isinstance(days, int) and isinstance(renew, int):
        replicated = known.get("POSTGRES_INSTANCES") == len(names.INSTANCES)
        return Validity(now, days, renew, replicated=replicated)
    return Validity(now, days=365, renew_days=30)
