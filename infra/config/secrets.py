"""Secrets: what exists is kept, what is missing is made, what is unusable is refused.

Everything is decided in memory; nothing is written before the whole compile succeeded.
"""

import os
import secrets
from pathlib import Path

from infra.config import names, scram
from infra.config.faults import Fault

PASSWORD_MIN_CHARACTERS = 16
PASSWORD_MAX_CHARACTERS = 128
_GENERATED_BYTES = 32
# A set of new secrets that is whole and counts, though not all are in their place yet.
STAGED = ".staged"
# Tells one set of three instances from another: made with three, and gone only when the single
# server has taken over the primary's data (infra/host/operate-apply.sh). What a standby or etcd
# kept from before a time with a single server must not come back.
CLUSTER_ID = "postgres-cluster.id"
_CLUSTER_ID_BYTES = 8
# The repository of the backups is encrypted with it. Without it they are worth nothing, and it
# cannot be changed but by a new repository.
BACKUP_KEY = "backup.key"
TOKENS = tuple(f"{alias}.token" for alias in names.CONTROL_ALIASES.values())


class SecretError(Exception):
    """A secret cannot be used; the message never contains it."""


class SecretStore:
    """The secrets directory plus what this run will add to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pending: dict[str, bytes] = {}
        self._hidden: set[str] = set()

    def read(self, name: str) -> bytes | None:
        """Return a secret's bytes, None when there is none; raise SecretError if unreadable."""
        if name in self.pending:
            return self.pending[name]
        if name in self._hidden:
            return None
        try:
            return self._kept(name)
        except OSError as error:
            raise SecretError(
                f"cannot be read: {error.strerror}; give it to root with mode 0400"
            ) from error

    def _kept(self, name: str) -> bytes | None:
        try:
            # An empty one there is to be removed.
            return (self.directory / STAGED / name).read_bytes() or None
        except FileNotFoundError:
            pass
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Add or replace a secret when this run is written."""
        self.pending[name] = content

    def hide(self, name: str) -> None:
        """Let a secret count as missing, so that it is made anew."""
        self._hidden.add(name)

    def fault(self, name: str, message: str) -> Fault:
        """Return a fault that names the secret's file."""
        return Fault(os.fspath(self.directory / name), message)


def passwords(store: SecretStore, roles: tuple[str, ...]) -> tuple[dict[str, str], list[Fault]]:
    """Return the password of every login role, and a fault for each that cannot be used."""
    return _gather(store, roles, "password")


def tokens(store: SecretStore) -> tuple[dict[str, str], list[Fault]]:
    """Return the token of every control alias, and a fault for each that cannot be used."""
    return _gather(store, tuple(names.CONTROL_ALIASES.values()), "token")


def cluster_id(store: SecretStore, *, replicated: bool) -> str:
    """Return the id of the set of three instances, made where there is none; empty for one."""
    if not replicated:
        return ""
    content = store.read(CLUSTER_ID)
    if not content:
        content = secrets.token_hex(_CLUSTER_ID_BYTES).encode("ascii")
        store.put(CLUSTER_ID, content)
    return content.decode("ascii")


def backup_key(store: SecretStore) -> tuple[str, list[Fault]]:
    """Return the key of the repository, and a fault where it cannot be used."""
    found, faults = _gather(store, (BACKUP_KEY.removesuffix(".key"),), "key")
    return found.get("backup", ""), faults


def verifiers(store: SecretStore, known: dict[str, str]) -> tuple[dict[str, str], list[Fault]]:
    """Return the SCRAM verifier of every role: the stored one while its password is the same."""
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for role, password in known.items():
        name = f"{role}.scram"
        try:
            found[role] = _verifier(store, name, password)
        except SecretError as error:
            faults.append(store.fault(name, str(error)))
    return found, faults


def _gather(
    store: SecretStore, owners: tuple[str, ...], kind: str
) -> tuple[dict[str, str], list[Fault]]:
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for owner in owners:
        name = f"{owner}.{kind}"
        try:
            found[owner] = _password(store, name, kind)
        except SecretError as error:
            faults.append(store.fault(name, str(error)))
    return found, faults


def _password(store: SecretStore, name: str, kind: str) -> str:
    content = store.read(name)
    if content is None:
        content = secrets.token_urlsafe(_GENERATED_BYTES).encode("ascii")
        store.put(name, content)
    problem = _password_problem(content, kind)
    if problem:
        raise SecretError(problem)
    return content.decode("ascii")


def _password_problem(content: bytes, kind: str) -> str | None:
    if not content:
        return f"is empty; write the {kind} into it"
    if b"\0" in content:
        return f"contains a NUL byte; a {kind} cannot"
    if b"\n" in content or b"\r" in content:
        return f"contains a line break; write the {kind} with printf '%s', not echo"
    if not all(0x21 <= byte <= 0x7E for byte in content):
        return "must be printable ASCII without spaces"
    if not PASSWORD_MIN_CHARACTERS <= len(content) <= PASSWORD_MAX_CHARACTERS:
        return (
            f"has {len(content)} characters; "
            f"{PASSWORD_MIN_CHARACTERS}..{PASSWORD_MAX_CHARACTERS} are accepted"
        )
    return None


def _verifier(store: SecretStore, name: str, password: str) -> str:
    content = store.read(name)
    stored = content.decode("ascii", "replace") if content else ""
    if scram.matches(password, stored):
        return stored
    made = scram.verifier(password, secrets.token_bytes(scram.SALT_BYTES))
    store.put(name, made.encode("ascii"))
    return made
