"""Make X.509 pairs: a private CA and server certificates signed by it."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
# Marks what was made here; nothing else is ever renewed or replaced.
ORGANIZATION = "Sluice, made by the config service"
CA_DAYS = 3650
# A clock that is a little behind must still accept a certificate made just now.
_BACKDATED = datetime.timedelta(hours=1)
_LOOPBACK = ipaddress.ip_address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its private key, parsed and as PEM; a supplied CA may lack its key."""

    certificate: x509.Certificate
    certificate_pem: bytes
    key: SigningKey | None
    key_pem: bytes = field(repr=False)

    @property
    def made_here(self) -> bool:
        """Return True if the config service made this certificate."""
        names = self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        return any(name.value == ORGANIZATION for name in names)


def make_authority(now: datetime.datetime) -> Pair:
    """Return a new self-signed CA that may sign servers and nothing below another CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial in the name tells two generations apart where chains are built by name.
    subject = _name(f"Sluice private CA {x509.random_serial_number():x}"[:50])
    usage = _key_usage(sign_certificates=True)
    builder = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _signed(builder, key, key)


def make_server(
    host: str,
    authority: Pair,
    now: datetime.datetime,
    days: int,
    *,
    hosts: Sequence[str] = (),
    is_client: bool = False,
) -> Pair:
    """Return a new pair named `host`, signed by `authority`.

    It serves as `hosts`, or as `host` where they are none, and as localhost; with `is_client` it
    is also shown to other servers.
    """
    if authority.key is None:
        raise ValueError("the authority has no key to sign with")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    known = [x509.DNSName(one) for one in (*(hosts or (host,)), "localhost")]
    names = [*known, x509.IPAddress(_LOOPBACK)]
    usage = [ExtendedKeyUsageOID.SERVER_AUTH]
    if is_client:
        usage.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    builder = (
        _builder(_name(host), issuer.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # Python's default TLS context insists on it.
        .add_extension(_issued_by(issuer, authority.key), critical=False)
    )
    return _signed(builder, key, authority.key)


def _issued_by(issuer: x509.Certificate, key: SigningKey) -> x509.AuthorityKeyIdentifier:
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        # A supplied CA may be without.
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: SigningKey,
) -> Pair:
    certificate = builder.sign(signer, hashes.SHA256())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Pair(certificate, certificate.public_bytes(serialization.Encoding.PEM), key, key_pem)
