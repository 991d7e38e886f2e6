"""Which new secrets a rotation brings: given by the operator, placed beforehand, or made here."""

import secrets as random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.config import scram
from infra.config.secrets import PASSWORDS, TOKENS, VERIFIERS

_GENERATED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """The secrets volume, and a directory of secrets that the operator gives, if any."""

    secrets: Path
    source: Path | None

    def new(self) -> dict[str, bytes]:
        """Return a new password for every role and a new token for every service, by file."""
        return {name: self._new(name) for name in (*PASSWORDS, *TOKENS)}

    def old(self) -> dict[str, bytes]:
        """Return what is in force, by file name.

        The password that one replaced which was placed beforehand is nowhere any more.
        """
        names = [name for name in PASSWORDS if not self._is_placed(name)]
        return {name: self._kept(name) for name in (*names, *VERIFIERS, *TOKENS)}

    def _new(self, name: str) -> bytes:
        if self.source is not None and (self.source / name).exists():
            return (self.source / name).read_bytes()
        if name in PASSWORDS and self._is_placed(name):
            return self._kept(name)
        return random.token_urlsafe(_GENERATED_BYTES).encode("ascii")

    def _is_placed(self, name: str) -> bool:
        """Tell whether the password is another than the one that is in force."""
        verifier = self._kept(name.replace(".password", ".scram")).decode("ascii")
        return not scram.matches(self._kept(name).decode("ascii", "replace"), verifier)

    def _kept(self, name: str) -> bytes:
        return (self.secrets / name).read_bytes()
