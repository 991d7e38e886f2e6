"""Which certificate a process shows now, seen from outside."""

import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from infra.config import names
from infra.ops.clients import app_control, patroni, pgbouncer
from infra.ops.clients.processes import OpsSettings, Target, resolve

_SECONDS: Final = 3.0
# What a PostgreSQL client sends to begin TLS, and the answer that allows it.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_ALLOWED: Final = b"S"


@dataclass(frozen=True, slots=True)
class Shown:
    """A process with a certificate; `secret` is the name its files have among the secrets."""

    target: Target
    secret: str
    is_database: bool

    def certificate(self) -> bytes:
        """Return the certificate that it shows to a new connection, as DER."""
        return self._handshake(_trusting(None))

    def is_trusted_by(self, authority: bytes) -> bool:
        """Return True if a client that trusts only this CA (PEM) would connect."""
        try:
            self._handshake(_trusting(authority))
        except ssl.SSLCertVerificationError:
            return False
        return True

    def _handshake(self, context: ssl.SSLContext) -> bytes:
        address = (self.target.address, self.target.port)
        with socket.create_connection(address, timeout=_SECONDS) as plain:
            if self.is_database:
                plain.sendall(_SSL_REQUEST)
                if plain.recv(1) != _ALLOWED:
                    raise ConnectionError(f"{self.target} offers no TLS")
            with context.wrap_socket(plain, server_hostname=self.target.host) as secured:
                return secured.getpeercert(binary_form=True) or b""


def everyone(settings: OpsSettings) -> tuple[Shown, ...]:
    """Return every process that has a certificate and an address now."""
    postgres = settings.values["postgres"]
    databases = (*resolve(postgres["host"], postgres["port"]), *pgbouncer.replicas(settings))
    app = app_control.connect(settings)
    return (
        *(Shown(target, target.host, is_database=True) for target in databases),
        *_instances(settings),
        *(
            Shown(target, names.CONTROL_ALIASES[app.service_of(target)], is_database=False)
            for target in app.targets()
        ),
    )


def _instances(settings: OpsSettings) -> Iterator[Shown]:
    """Yield each of three servers, and the Patroni beside it."""
    if not patroni.is_replicated(settings):
        return
    for name in settings.values["postgres"]["instances"]:
        for target in resolve(name, settings.values["postgres"]["port"]):
            yield Shown(target, "postgres", is_database=True)
        for target in resolve(name, names.PATRONI_PORT):
            yield Shown(target, "patroni", is_database=False)


def _trusting(authority: bytes | None) -> ssl.SSLContext:
    if authority is not None:
        trusting = ssl.create_default_context(cadata=authority.decode("ascii"))
        # As strict as libpq and the control plane: key identifiers may be left out.
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return trusting
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
