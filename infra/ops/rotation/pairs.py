"""Which new certificates a rotation brings: given by the operator, or made here."""

import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from infra.compiler.certificates import SERVERS
from infra.compiler.faults import Fault, FaultyInputError
from infra.compiler.issuing import Pair

CA: Final = "ca"
NAMES: Final = (CA, *SERVERS)
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The secrets volume, a directory of what the operator gives, and whether a CA is wanted."""

    secrets: Path
    source: Path | None
    new_ca: bool

    def old(self) -> Files:
        """Return every file of the pairs that are in force, by name."""
        paths = (self.secrets / file for name in NAMES for file in _both(name))
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    def changes(self) -> dict[str, bytes | None]:
        """Return the given files, and None for each that is to be made anew.

        Only what was made here is replaced by what is made here.

        Raises:
            FaultyInputError: the CA was supplied, and its successor is not given.

        """
        changed: dict[str, bytes | None] = {}
        for name in NAMES:
            if self._is_given(name):
                changed |= {file: self._given(file) for file in _both(name)}
            elif name == CA and not self.new_ca:
                continue
            elif self._is_made_here(name):
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

    def unusable(self) -> list[Fault]:
        """Return a fault for each given pair that the TLS library itself refuses to serve with."""
        return [fault for name in SERVERS if self._is_given(name) for fault in self._refusal(name)]

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

    def _is_made_here(self, name: str) -> bool:
        pem = (self.secrets / f"{name}.crt").read_bytes()
        return Pair(x509.load_pem_x509_certificate(pem), pem, None, b"").made_here

    def _refusal(self, name: str) -> Iterator[Fault]:
        with tempfile.TemporaryDirectory() as directory:
            certificate, key = paths = [Path(directory) / file for file in _both(name)]
            for path in paths:
                path.write_bytes(self._given(path.name) or b"")
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            except (OSError, ssl.SSLError) as error:
                yield Fault(str((self.source or self.secrets) / f"{name}.crt"), f"refused: {error}")


def _both(name: str) -> tuple[str, str]:
    return f"{name}.crt", f"{name}.key"
