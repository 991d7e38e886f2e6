"""Which new certificates a rotation brings, given by the operator or made here, in which steps."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.config.certificates import (
    ALSO_TRUSTED,
    PEERS,
    SERVERS,
    Expiry,
    Validity,
    expiry,
    warnings,
)
from infra.config.faults import Fault, FaultyInputError
from infra.config.secrets import SecretStore
from infra.config.settings import Values
from infra.config.sizing import is_replicated

CA: Final = "ca"
NAMES: Final = (CA, *SERVERS, *PEERS)
CA_FILE: Final = "ca.crt"
FILES: Final = tuple(f"{name}.{kind}" for name in NAMES for kind in ("crt", "key"))
Files = dict[str, bytes]
Changes = Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The secrets volume, a directory of what the operator gives, and whether a CA is wanted."""

    secrets: Path
    source: Path | None
    new_ca: bool

    def old(self) -> Files:
        """Return every file of the present pairs, by name."""
        paths = (self.secrets / file for file in FILES)
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    def changes(self) -> dict[str, bytes | None]:
        """Return the given files, and None for each that is to be made anew.

        Only what was made here, or has expired with its CA or by itself, is replaced by what
        is made here.

        Raises:
            FaultyInputError: the CA was supplied, and its successor is not given.

        """
        present = {one.file: one for one in expiry(SecretStore(self.secrets))}
        now = datetime.datetime.now(datetime.UTC)
        changed: dict[str, bytes | None] = {}
        for name in NAMES:
            if self._is_given(name):
                changed |= {file: self._given(file) for file in _both(name)}
            elif name == CA and not self.new_ca:
                continue
            elif _is_replaceable(present, name, now):
                changed |= dict.fromkeys(_both(name))
            elif name == CA:
                raise FaultyInputError(
                    [
                        Fault(
                            str(self.secrets / "ca.crt"),
                            "was supplied: give the new CA with --from",
                        )
                    ]
                )
        return changed

    def are_in_place(self) -> bool:
        """Return True if every file that was given is among the secrets already."""
        present = self.old()
        return all(self._given(file) in (None, present.get(file)) for file in FILES)

    def placed(self, fault: Fault) -> Fault:
        """Return a fault under the name of the file that the operator gave."""
        name = Path(fault.file).name
        given = self.source is not None and (self.source / name).exists()
        return Fault(str(self.source / name), fault.message) if self.source and given else fault

    def _is_given(self, name: str) -> bool:
        return any(self._given(file) is not None for file in _both(name))

    def _given(self, file: str) -> bytes | None:
        if self.source is None or not (self.source / file).exists():
            return None
        return (self.source / file).read_bytes()


def _is_replaceable(present: dict[str, Expiry], name: str, now: datetime.datetime) -> bool:
    one, authority = present.get(f"{name}.crt"), present.get("ca.crt")
    if one is None or one.made_here or one.at <= now:
        return True
    return authority is not None and authority.at <= now


def _both(name: str) -> tuple[str, str]:
    return f"{name}.crt", f"{name}.key"


def due_files(store: SecretStore, values: Values) -> tuple[set[str], list[str]]:
    """Return the files of certificates made here that are to be renewed, and warnings of others."""
    days, renew = (values.integer(f"CERTIFICATE_{name}DAYS") for name in ("", "RENEW_"))
    now, replicated = datetime.datetime.now(datetime.UTC), is_replicated(values)
    validity = Validity(now, days, renew, replicated=replicated)
    own = {one.file for one in expiry(store) if one.made_here}
    due = {Path(one.file).name: one for one in warnings(store, validity)}
    if "ca.key" in due and own & due.keys():
        # Without it only a new CA can sign.
        return own & due.keys() | {CA_FILE}, []
    return own & due.keys(), [str(due[file]) for file in sorted(due.keys() - own)]


def steps(old: Files, new: Files, *, promoted: bool) -> list[Changes]:
    """Return the secrets of each step; `promoted`: new files may be in place already.

    One step for the same CA. For another: trust both, show the new, trust the new alone.
    """
    if CA_FILE not in new:
        return [new]
    whole = _whole(new)
    later: list[Changes] = [{**whole, ALSO_TRUSTED: old[CA_FILE]}, {**whole, ALSO_TRUSTED: b""}]
    return later if promoted else [{ALSO_TRUSTED: new[CA_FILE]}, *later]


def _whole(new: Files) -> Changes:
    # A CA that was given without its key signs nothing here; the old key is not its own.
    return {"ca.key": None, **new} if CA_FILE in new else {**new}


def restored(old: Files, new: Files) -> Changes:
    """Return the secrets that put the old pairs back."""
    # A key that only the new set has, such as that of a CA which had lost its own, goes again.
    return {**dict.fromkeys(new), **old, ALSO_TRUSTED: b""}
