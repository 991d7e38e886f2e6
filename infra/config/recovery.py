"""Secrets that are gone while what was compiled from them remains: noticed, and read back.

The tiers' files hold every secret but the CA's key. A start that made new ones instead would
change every password behind the running processes, and forget those that were supplied.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from infra.config import backups, names, scram
from infra.config.certificates import ALSO_TRUSTED
from infra.config.faults import Fault
from infra.config.secrets import CLUSTER_ID, STAGED, TOKENS, SecretError, SecretStore

RESTORE: Final = "make restore-secrets"
CA: Final = "ca.crt"
_PAIRS: Final = {
    "postgres": "postgres/server",
    "pgbouncer": "pgbouncer/server",
    **{alias: f"app/{alias}" for alias in names.CONTROL_ALIASES.values()},
}
# Where the same bytes are, below the directory of the compiled files.
_COPIES: Final = {
    f"{names.OWNER}.password": ("app/migrate.password",),
    f"{names.API.role}.password": ("app/api.password",),
    f"{names.WORKER.role}.password": ("app/worker.password",),
    f"{names.MONITOR}.password": ("ops/monitor.password",),
    f"{names.OPERATOR}.password": ("ops/operator.password",),
    **{token: (f"ops/{token}", f"app/{token}") for token in TOKENS},
    **{
        f"{name}.{kind}": (f"{at}.{kind}",)
        for name, at in _PAIRS.items()
        for kind in ("crt", "key")
    },
    # May be followed by another CA, while one replaces the other.
    CA: tuple(f"{tier}/{CA}" for tier in ("ops", "app", "postgres", "pgbouncer")),
}
# Only with three instances.
_REPLICATED: Final = {
    CLUSTER_ID: (f"postgres/{CLUSTER_ID}",),
    **{
        f"{name}.{kind}": (f"postgres/{name}.{kind}",)
        for name in ("patroni", "etcd")
        for kind in ("crt", "key")
    },
}
_VERIFIER: Final = r"SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+"
# The first line of a role in roles.sql up to its verifier; an entry of userlist.txt.
_VERIFIERS: Final = {
    "postgres/roles.sql": re.compile(
        rf"""ALTER ROLE "(\w+)" WITH [^;']*PASSWORD '({_VERIFIER})'"""
    ),
    "pgbouncer/userlist.txt": re.compile(rf'^"(\w+)" "({_VERIFIER})"$', re.MULTILINE),
}
# The servers are operated, watched and followed by them, also by what was not yet updated.
_BETWEEN_TIERS: Final = (names.OPERATOR, names.MONITOR, names.REPLICATION)
_END: Final = b"-----END CERTIFICATE-----\n"
# Of the applications and the owners of their databases; see infra/config/render.py.
_APPLICATIONS: Final = "ops/clients"


def copies(out: Path) -> dict[str, tuple[str, ...]]:
    """Return where the bytes of every secret are below `out`, but those of verifiers."""
    others = sorted((out / _APPLICATIONS).glob("*.password"))
    found = {path.name: (f"{_APPLICATIONS}/{path.name}",) for path in others}
    replicated = _REPLICATED if (out / f"postgres/{CLUSTER_ID}").exists() else {}
    return _COPIES | replicated | found | {name: (f"postgres/{name}",) for name in _of_backups(out)}


def _of_backups(out: Path) -> tuple[str, ...]:
    paths = [out / "postgres" / name for name in backups.SECRETS]
    return tuple(path.name for path in paths if path.exists() and path.stat().st_size)


def passwords(out: Path) -> tuple[str, ...]:
    """Return the file of every password."""
    return tuple(name for name in copies(out) if name.endswith(".password"))


def recoverable(out: Path) -> tuple[str, ...]:
    """Return all that can be read back; the CA's key is nowhere else."""
    verifiers = (name.replace(".password", ".scram") for name in passwords(out))
    return (*copies(out), *verifiers)


def fault(secrets: Path, out: Path, *, has_data: bool = False) -> Fault | None:
    """Return what is wrong where secrets are gone and must not be made anew; None elsewhere.

    `out` is where the compiled files are; `has_data` is True where there is a database. Needs no
    right to read a file, only to look at the directories.
    """
    if gone := lost(secrets, out):
        shown = ", ".join(gone[:2]) + (", ..." if len(gone) > 2 else "")
        return Fault(
            str(secrets),
            f"{len(gone)} secrets that the compiled files were made of are gone ({shown}): the "
            f"volume was lost or emptied; write them back: {RESTORE}",
        )
    if has_data and is_blank(secrets, out):
        return Fault(
            str(secrets),
            f"is empty, and so are the compiled files, but there is a database; restore your "
            f"backup of the secrets, or have new ones made for it: {RESTORE}",
        )
    return None


def lost(secrets: Path, out: Path) -> tuple[str, ...]:
    """Return the passwords, tokens, CA and backups' key that only the compiled files still hold.

    Not pairs of a server: removing one is how it is had made anew.
    """
    held = copies(out)
    return tuple(
        name
        for name in (*passwords(out), *TOKENS, CA, *_of_backups(out))
        if not _is_kept(secrets, name) and any((out / copy).exists() for copy in held[name])
    )


def replaced(secrets: Path, out: Path) -> tuple[str, ...]:
    """Return the CA and the passwords between tiers that are others than were compiled.

    Where nothing was compiled with them, none is.
    """
    trusted = next((out / place for place in _COPIES[CA] if (out / place).exists()), None)
    found = [CA] if trusted and not trusted.read_bytes().startswith(_kept(secrets, CA)) else []
    held = _verifiers(out)
    for role in _BETWEEN_TIERS:
        verifier = held.get(f"{role}.scram", b"").decode("ascii")
        password = _kept(secrets, f"{role}.password").decode("ascii", "backslashreplace")
        if verifier and not scram.matches(password, verifier):
            found.append(f"{role}.password")
    return tuple(found)


def _kept(secrets: Path, name: str) -> bytes:
    with suppress(SecretError):
        return (SecretStore(secrets).read(name) or b"").rstrip()
    return b""


def is_blank(secrets: Path, out: Path) -> bool:
    """Return True if there is no password, and no compiled file that holds one."""
    return not any(_is_kept(secrets, name) for name in passwords(out)) and not lost(secrets, out)


def missing(secrets: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of those secrets that are not there."""
    return tuple(name for name in names if not _is_kept(secrets, name))


def recover(secrets: Path, out: Path) -> dict[str, bytes]:
    """Return every missing secret that the compiled files hold, byte for byte, by name.

    Raises:
        OSError: a compiled file cannot be read; takes the right to read those of every tier.

    """
    held = _verifiers(out)
    for name, places in copies(out).items():
        found = (out / place for place in places if (out / place).exists())
        if (path := next(found, None)) is not None:
            held[name] = path.read_bytes()
    own, end, other = held.get(CA, b"").partition(_END)
    if other:
        held |= {CA: own + end, ALSO_TRUSTED: other}
    return {name: held[name] for name in missing(secrets, held)}


def _verifiers(out: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for file, pattern in _VERIFIERS.items():
        if (out / file).exists():
            pairs = pattern.findall((out / file).read_text(encoding="utf-8"))
            found |= {f"{role}.scram": verifier.encode("ascii") for role, verifier in pairs}
    return found


def _is_kept(secrets: Path, name: str) -> bool:
    return (secrets / name).exists() or (secrets / STAGED / name).exists()
