"""Which certificates are taken for trusted when a server is looked at from outside."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from infra.config import issuing
from infra.ops.clients.processes import Target
from infra.ops.rotation import handshake


@pytest.fixture
def _as_strict_as_newer_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the default context check what RFC 5280 asks for, as Python 3.13 does."""
    make: Callable[..., ssl.SSLContext] = ssl.create_default_context

    def strict(**options: Any) -> ssl.SSLContext:
        context = make(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


@pytest.mark.usefixtures("_as_strict_as_newer_pythons")
def test_a_supplied_certificate_without_key_identifiers_is_trusted_as_libpq_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = x509.CertificateBuilder.add_extension

    def without(
        self: x509.CertificateBuilder, extension: x509.ExtensionType, critical: bool
    ) -> x509.CertificateBuilder:
        identifiers = (x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier)
        return self if isinstance(extension, identifiers) else add(self, extension, critical)

    monkeypatch.setattr(x509.CertificateBuilder, "add_extension", without)
    now = datetime.datetime.now(datetime.UTC)
    authority, other = issuing.make_authority(now), issuing.make_authority(now)
    pair = issuing.make_server("api-control", authority, now, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _serve(listener, pair, tmp_path, connections=2)
        target = Target("api-1", "api-control", *listener.getsockname())
        shown = handshake.Shown(target, "api-control", is_database=False)
        assert shown.is_trusted_by(authority.certificate_pem)
        assert not shown.is_trusted_by(other.certificate_pem)


def _serve(listener: socket.socket, pair: issuing.Pair, directory: Path, connections: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, pem in (("crt", pair.certificate_pem), ("key", pair.key_pem)):
        (directory / name).write_bytes(pem)
    context.load_cert_chain(directory / "crt", directory / "key")

    def serve() -> None:
        for _ in range(connections):
            plain, _address = listener.accept()
            try:
                context.wrap_socket(plain, server_side=True).close()
            except (ssl.SSLError, OSError):
                plain.close()

    threading.Thread(target=serve, daemon=True).start()
