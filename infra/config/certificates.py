"""The private CA and the server certificates: made once, renewed in time, or supplied.

Only a certificate made here is ever replaced. What an operator has placed is checked and
refused with a reason, never changed. `plan`, `config`, `apply` and the rotation all judge here.
"""

import datetime
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from infra.config import issuing, names
from infra.config.faults import Fault
from infra.config.issuing import Pair, SigningKey
from infra.config.secrets import SecretError, SecretStore

SERVERS = ("postgres", "pgbouncer", *names.CONTROL_ALIASES.values())
# With three instances: by pair, the hosts that it also names.
_REPLICATED = {"postgres": names.INSTANCES, "patroni": names.INSTANCES, "etcd": names.ETCD}
# Each is client and server to others of its kind.
PEERS = ("patroni", "etcd")
# There only while `rotate certificates --ca` is under way.
ALSO_TRUSTED = "ca-also-trusted.crt"
_BOTH = "supply both files of the pair, or remove both to have them made"
_REPLACE = "make rotate-certificates"
_SUPPLY = f"{_REPLACE} FROM=directory"
_NEW_CA = f"make a new CA: {_REPLACE} CA=yes"
_SERVES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


@dataclass(frozen=True, slots=True)
class Validity:
    """The moment of this run (UTC), the two certificate settings in days, and whose there are."""

    now: datetime.datetime
    days: int
    renew_days: int
    replicated: bool = False

    @property
    def servers(self) -> tuple[str, ...]:
        """The name of every server's pair."""
        return (*SERVERS, *(PEERS if self.replicated else ()))

    def hosts(self, server: str) -> tuple[str, ...]:
        """Return the host names that a server's certificate must have, beside localhost."""
        more = _REPLICATED.get(server, ()) if self.replicated else ()
        return (*(() if server in PEERS else (server,)), *more)

    def is_due(self, certificate: x509.Certificate) -> bool:
        """Return True if a certificate made here should be renewed now."""
        margin = datetime.timedelta(days=self.renew_days)
        return certificate.not_valid_after_utc <= self.now + margin


@dataclass(frozen=True, slots=True)
class Expiry:
    """When (UTC) the certificate in one file of the secrets directory expires."""

    file: str
    at: datetime.datetime
    made_here: bool

    def days(self, now: datetime.datetime) -> float:
        """Return the days that are left, negative after expiry."""
        return (self.at - now) / datetime.timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM: the CA certificates that are trusted, and (certificate, key) of each server."""

    trusted: bytes
    servers: dict[str, tuple[bytes, bytes]] = field(repr=False)


def expiry(store: SecretStore, servers: Iterable[str] = (*SERVERS, *PEERS)) -> tuple[Expiry, ...]:
    """Return when the CA and these servers' certificates expire; unreadable ones are left out."""
    found = []
    for name in ("ca", *servers):
        try:
            pem = store.read(f"{name}.crt")
            pair = Pair(_parse_certificate(pem or b""), b"", None, b"")
        except SecretError:
            continue
        at = pair.certificate.not_valid_after_utc
        found.append(Expiry(f"{name}.crt", at, pair.made_here))
    return tuple(found)


def warnings(store: SecretStore, validity: Validity) -> tuple[Fault, ...]:
    """Return a warning for each certificate that is due, with the command that renews it.

    Also for a CA made here whose key is gone, so that nothing can be renewed. What three instances
    had is nobody's while there is one.
    """
    due = datetime.timedelta(days=validity.renew_days)
    found = expiry(store, validity.servers)
    told = [
        store.fault(one.file, _warning(one, validity))
        for one in found
        if one.at <= validity.now + due
    ]
    if any(one.file == "ca.crt" and one.made_here for one in found) and not store.read("ca.key"):
        told.append(store.fault("ca.key", f"is missing, so nothing can be renewed; {_NEW_CA}"))
    return tuple(told)


def _warning(one: Expiry, validity: Validity) -> str:
    if one.at <= validity.now:
        return f"expired at {one}; replace it, whether the stack runs or not: {_renewal(one)}"
    left = f"expires at {one}, in {one.days(validity.now):.1f} days"
    return f"{left}; CERTIFICATE_RENEW_DAYS={validity.renew_days}; renew it: {_renewal(one)}"


def _renewal(one: Expiry) -> str:
    if not one.made_here:
        return _SUPPLY
    return f"{_REPLACE} CA=yes" if one.file == "ca.crt" else _REPLACE


def certificates(store: SecretStore, validity: Validity) -> tuple[Certificates | None, list[Fault]]:
    """Return all certificates, or every fault of the supplied ones."""
    try:
        authority = _authority(store, validity)
    except SecretError as error:
        return None, [store.fault("ca.crt", str(error))]
    try:
        also = _also_trusted(store)
    except SecretError as error:
        return None, [store.fault(ALSO_TRUSTED, str(error))]
    servers: dict[str, tuple[bytes, bytes]] = {}
    faults: list[Fault] = []
    for host in validity.servers:
        try:
            pair = _server(store, host, authority, validity)
        except SecretError as error:
            faults.append(store.fault(f"{host}.crt", str(error)))
        else:
            servers[host] = (pair.certificate_pem, pair.key_pem)
    if faults:
        return None, faults
    ca = authority.certificate_pem
    return Certificates(ca.rstrip() + b"\n" + also if also else ca, servers), []


def _authority(store: SecretStore, validity: Validity) -> Pair:
    """Return the CA. A supplied one may come without its key when it signs nothing here.

    One that is due is kept: processes that run trust it. Only a rotation replaces it in steps.
    """
    found = _load(store, "ca", key_optional=True)
    if found is None or (found.made_here and _is_expired(found.certificate, validity.now)):
        found = issuing.make_authority(validity.now)
        _store(store, "ca", found)
    _check_dates(found.certificate, validity.now, f"{_REPLACE} CA=yes")
    _check_is_authority(found.certificate)
    return found


def _also_trusted(store: SecretStore) -> bytes:
    """Return the other CA that is trusted while one replaces the other; mostly none."""
    pem = store.read(ALSO_TRUSTED) or b""
    if pem:
        _check_is_authority(_parse_certificate(pem))
    return pem


def _server(store: SecretStore, host: str, authority: Pair, validity: Validity) -> Pair:
    found = _load(store, host, key_optional=False)
    if authority.key is None:
        # One that is due is kept then: it may still serve for a while.
        if found is None:
            how = _NEW_CA if authority.made_here else _BOTH
            raise SecretError(f"missing certificate: there is no ca.key to make it; {how}")
    elif found is None or (found.made_here and _is_stale(found, host, authority, validity)):
        found = issuing.make_server(
            host,
            authority,
            validity.now,
            validity.days,
            hosts=validity.hosts(host),
            is_client=host in PEERS,
        )
        _store(store, host, found)
    _check_dates(found.certificate, validity.now, _REPLACE)
    _check_host(found.certificate, *validity.hosts(host))
    _check_usage(found.certificate)
    _check_chain(found.certificate, authority.certificate)
    if not found.made_here:
        _check_loads(found)
    return found


def _is_stale(pair: Pair, host: str, authority: Pair, validity: Validity) -> bool:
    """Return True if a pair made here is due, of another CA or for another host."""
    if validity.is_due(pair.certificate):
        return True
    try:
        _check_chain(pair.certificate, authority.certificate)
        _check_host(pair.certificate, *validity.hosts(host))
    except SecretError:
        return True
    return False


def _load(store: SecretStore, name: str, *, key_optional: bool) -> Pair | None:
    certificate_pem, key_pem = store.read(f"{name}.crt"), store.read(f"{name}.key")
    if certificate_pem is None and key_pem is None:
        return None
    if certificate_pem is None:
        raise SecretError(f"missing certificate: {name}.key has no {name}.crt; {_BOTH}")
    if key_pem is None and not key_optional:
        raise SecretError(f"missing private key: there is no {name}.key; {_BOTH}")
    certificate = _parse_certificate(certificate_pem)
    key = None if key_pem is None else _parse_key(key_pem, certificate, f"{name}.key")
    return Pair(certificate, certificate_pem, key, key_pem or b"")


def _store(store: SecretStore, name: str, pair: Pair) -> None:
    store.put(f"{name}.crt", pair.certificate_pem)
    store.put(f"{name}.key", pair.key_pem)


def _parse_certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise SecretError("is not a PEM certificate") from error


def _parse_key(pem: bytes, certificate: x509.Certificate, name: str) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SecretError(f"{name} is not a PEM private key without passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise SecretError(f"{name} is neither an elliptic-curve nor an RSA key")
    if key.public_key() != certificate.public_key():
        raise SecretError(f"does not belong to {name}; supply a matching pair")
    return key


def _is_expired(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    return certificate.not_valid_after_utc <= now


def _check_dates(certificate: x509.Certificate, now: datetime.datetime, replace: str) -> None:
    if _is_expired(certificate, now):
        raise SecretError(
            f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; supply another "
            f"({_SUPPLY}) or have it made ({replace}), whether the stack runs or not"
        )
    if certificate.not_valid_before_utc > now:
        raise SecretError(
            f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )


def _check_is_authority(certificate: x509.Certificate) -> None:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        raise SecretError("is not a CA certificate (no basic constraints)") from None
    if not found.value.ca:
        raise SecretError("is not a CA certificate (CA:FALSE)")
    for extension in certificate.extensions:
        usage = extension.value
        if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
            raise SecretError("its key usage is without keyCertSign; a CA needs it")


def _check_host(certificate: x509.Certificate, *hosts: str) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise SecretError(f"has no subject alternative name; it must name {hosts[0]}") from None
    known = names.value.get_values_for_type(x509.DNSName)
    missing = [wanted for wanted in (*hosts, "localhost") if wanted not in known]
    if missing:
        raise SecretError(
            f"names {', '.join(known) or 'nobody'}; it must also name {', '.join(missing)}"
        )


def _check_usage(certificate: x509.Certificate) -> None:
    """Check what the key may be used for; without either extension it may be used for all."""
    for extension in certificate.extensions:
        usage = extension.value
        if isinstance(usage, x509.ExtendedKeyUsage) and not set(usage) & set(_SERVES):
            raise SecretError("its extended key usage is without serverAuth; a server needs it")
        if isinstance(usage, x509.KeyUsage) and not usage.digital_signature:
            raise SecretError("its key usage is without digitalSignature; TLS 1.3 needs it")


def _check_loads(pair: Pair) -> None:
    """Check that the TLS library itself serves with a supplied pair: a weak key it does not."""
    descriptor = os.memfd_create("pair")
    try:
        # Not on a disk: there may be none that is writable, or no room.
        os.write(descriptor, pair.certificate_pem + b"\n" + pair.key_pem)
        path = Path(f"/proc/self/fd/{descriptor}")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    except ssl.SSLError as error:
        raise SecretError(f"is refused by the TLS library: {error}") from error
    finally:
        os.close(descriptor)


def _check_chain(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise SecretError("is not issued by ca.crt; supply a certificate of that CA") from None
