"""The private CA and server certificates: made, kept, renewed, supplied, refused."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.config.certificates import (
    ALSO_TRUSTED,
    SERVERS,
    Certificates,
    Validity,
    certificates,
    expiry,
    warnings,
)
from infra.config.issuing import SigningKey
from infra.config.secrets import SecretStore
from infra.config.write import write_secrets
from tests.unit.infra.support import NOW

DAY = datetime.timedelta(days=1)


def _gather(
    directory: Path, now: datetime.datetime = NOW
) -> tuple[Certificates | None, list[str], SecretStore]:
    store = SecretStore(directory)
    found, faults = certificates(store, _validity(now))
    return found, [str(fault) for fault in faults], store


def _validity(now: datetime.datetime) -> Validity:
    return Validity(now, days=365, renew_days=30)


def _made(directory: Path, now: datetime.datetime = NOW) -> Certificates:
    found, faults, store = _gather(directory, now)
    assert not faults
    assert found
    write_secrets(store.pending, directory)
    return found


def _names(pem: bytes) -> list[str]:
    certificate = x509.load_pem_x509_certificate(pem)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


class Supplied:
    """Certificates as an operator's own tools make them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = _subject("A company CA")
        self.put("ca.crt", self.sign(self.subject, self.key, ca=True))

    def sign(
        self,
        subject: x509.Name,
        key: SigningKey,
        *,
        ca: bool = False,
        names: tuple[str, ...] = (),
        ends: datetime.datetime = NOW + 90 * DAY,
        starts: datetime.datetime = NOW - DAY,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            found = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(found, critical=False)
            usage = x509.ExtendedKeyUsage([purpose])
            builder = builder.add_extension(usage, critical=False)
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def server(self, host: str, **changed: object) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        options = {"names": (host, "localhost")} | changed
        self.put(f"{host}.crt", self.sign(_subject(host), key, **options))  # type: ignore[arg-type]
        self.put(f"{host}.key", _pem(key))

    def put(self, name: str, content: bytes) -> None:
        (self.directory / name).write_bytes(content)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


@pytest.fixture
def supplied(tmp_path: Path) -> Supplied:
    made = Supplied(tmp_path)
    for host in SERVERS:
        made.server(host)
    return made


def test_each_server_gets_a_certificate_for_its_name_and_localhost(tmp_path: Path) -> None:
    found = _made(tmp_path)
    for host in SERVERS:
        assert _names(found.servers[host][0]) == [host, "localhost"]
        certificate = x509.load_pem_x509_certificate(found.servers[host][0])
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(found.trusted))


def test_a_certificate_names_the_key_that_signed_it(tmp_path: Path) -> None:
    found = _made(tmp_path)
    authority = x509.load_pem_x509_certificate(found.trusted).extensions
    identifier = authority.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    for host in SERVERS:
        extensions = x509.load_pem_x509_certificate(found.servers[host][0]).extensions
        named = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        assert named.value.key_identifier == identifier


def test_what_was_made_is_kept_until_it_is_due(tmp_path: Path) -> None:
    first = _made(tmp_path)
    second, _, store = _gather(tmp_path, NOW + 334 * DAY)
    assert second == first
    assert not store.pending


def test_a_certificate_is_renewed_when_it_is_due_and_the_ca_stays(tmp_path: Path) -> None:
    first = _made(tmp_path)
    second, faults, store = _gather(tmp_path, NOW + 335 * DAY)
    assert not faults
    assert second
    assert second.trusted == first.trusted
    assert second.servers["postgres"] != first.servers["postgres"]
    assert set(store.pending) == {f"{host}.{kind}" for host in SERVERS for kind in ("crt", "key")}


def test_a_new_ca_renews_the_certificates_made_here(tmp_path: Path) -> None:
    first = _made(tmp_path)
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).unlink()
    second = _made(tmp_path)
    assert second.trusted != first.trusted
    assert second.servers["pgbouncer"] != first.servers["pgbouncer"]


def test_a_ca_that_is_due_is_left_to_a_rotation_until_it_has_expired(tmp_path: Path) -> None:
    first = _made(tmp_path)
    assert _made(tmp_path, NOW + 3640 * DAY).trusted == first.trusted
    (told,) = warnings(SecretStore(tmp_path), _validity(NOW + 3640 * DAY))
    assert "ca.crt: expires at" in str(told)
    assert "make rotate-certificates CA=yes" in str(told)
    assert _made(tmp_path, NOW + 3650 * DAY).trusted != first.trusted


def test_without_the_key_of_the_ca_one_that_is_due_is_kept_and_the_way_out_is_told(
    tmp_path: Path,
) -> None:
    first = _made(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert _made(tmp_path, NOW + 340 * DAY) == first
    (told,) = warnings(SecretStore(tmp_path), _validity(NOW))
    assert "ca.key: is missing, so nothing can be renewed" in str(told)
    assert str(told).endswith("make a new CA: make rotate-certificates CA=yes")
    for kind in ("crt", "key"):
        (tmp_path / f"postgres.{kind}").unlink()
    _, (fault,), _ = _gather(tmp_path)
    assert fault.endswith("make a new CA: make rotate-certificates CA=yes")


def test_a_supplied_certificate_that_is_due_is_told_of_with_its_date(supplied: Supplied) -> None:
    supplied.server("postgres", ends=NOW + 29 * DAY)
    store = SecretStore(supplied.directory)
    (told,) = warnings(store, _validity(NOW))
    assert str(told).startswith(f"{supplied.directory}/postgres.crt: expires at 2030-06-30")
    assert "make rotate-certificates FROM=directory" in str(told)
    days = {one.file: one.days(NOW) for one in expiry(store)}
    assert days["postgres.crt"] == pytest.approx(29)
    assert len(days) == 1 + len(SERVERS)


def test_a_certificate_made_here_that_has_expired_is_named_with_its_date(tmp_path: Path) -> None:
    _made(tmp_path)
    told = warnings(SecretStore(tmp_path), _validity(NOW + 366 * DAY))
    assert len(told) == len(SERVERS)
    assert all("expired at 2031-06-01 12:00 UTC" in str(one) for one in told)


def test_a_certificate_that_may_not_serve_is_refused(supplied: Supplied) -> None:
    supplied.server("postgres", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    _, (fault,), _ = _gather(supplied.directory)
    assert "its extended key usage is without serverAuth" in fault


def test_a_key_that_the_tls_library_refuses_is_refused(supplied: Supplied) -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  # weak on purpose
    names = ("postgres", "localhost")
    supplied.put("postgres.crt", supplied.sign(_subject("postgres"), key, names=names))
    supplied.put("postgres.key", _pem(key))
    _, (fault,), _ = _gather(supplied.directory)
    assert "is refused by the TLS library" in fault


def test_supplied_certificates_are_taken_unchanged(supplied: Supplied) -> None:
    found, faults, store = _gather(supplied.directory)
    assert not faults
    assert found
    assert found.trusted == (supplied.directory / "ca.crt").read_bytes()
    assert not store.pending


def test_a_supplied_certificate_is_not_renewed(supplied: Supplied) -> None:
    _, faults, store = _gather(supplied.directory, NOW + 89 * DAY)
    assert not faults
    assert not store.pending


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ends": NOW}, "expired at 2030-06-01 12:00 UTC"),
        ({"starts": NOW + DAY}, "is not valid before"),
        ({"names": ("other", "localhost")}, "it must also name postgres"),
        ({"names": ("postgres",)}, "it must also name localhost"),
        ({"names": ()}, "has no subject alternative name"),
    ],
)
def test_an_unusable_supplied_certificate_is_refused(
    supplied: Supplied, changed: dict[str, object], says: str
) -> None:
    supplied.server("postgres", **changed)
    _, (fault,), _ = _gather(supplied.directory)
    assert fault.startswith(f"{supplied.directory}/postgres.crt: ")
    assert says in fault


def test_a_certificate_of_another_ca_is_refused(supplied: Supplied) -> None:
    supplied.key = ec.generate_private_key(ec.SECP256R1())
    supplied.put("ca.crt", supplied.sign(supplied.subject, supplied.key, ca=True))
    _, faults, _ = _gather(supplied.directory)
    assert len(faults) == len(SERVERS) == 4
    assert all("is not issued by ca.crt" in fault for fault in faults)


def test_a_key_of_another_certificate_is_refused(supplied: Supplied) -> None:
    supplied.put("postgres.key", _pem(ec.generate_private_key(ec.SECP256R1())))
    _, (fault,), _ = _gather(supplied.directory)
    assert "does not belong to postgres.key" in fault


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("postgres.crt", "missing certificate: postgres.key has no postgres.crt"),
        ("postgres.key", "missing private key: there is no postgres.key"),
    ],
)
def test_half_a_pair_is_refused(supplied: Supplied, missing: str, says: str) -> None:
    (supplied.directory / missing).unlink()
    _, (fault,), _ = _gather(supplied.directory)
    assert says in fault


def test_a_ca_without_key_cannot_make_a_missing_certificate(supplied: Supplied) -> None:
    for name in ("postgres.crt", "postgres.key"):
        (supplied.directory / name).unlink()
    _, (fault,), _ = _gather(supplied.directory)
    assert "missing certificate: there is no ca.key" in fault


def test_a_supplied_ca_with_its_key_makes_missing_certificates(supplied: Supplied) -> None:
    supplied.put("ca.key", _pem(supplied.key))
    for name in ("postgres.crt", "postgres.key"):
        (supplied.directory / name).unlink()
    found, faults, store = _gather(supplied.directory)
    assert not faults
    assert found
    assert sorted(store.pending) == ["postgres.crt", "postgres.key"]


@pytest.mark.parametrize("name", ["ca.crt", "postgres.crt", "postgres.key"])
def test_what_is_not_pem_is_refused(supplied: Supplied, name: str) -> None:
    supplied.put(name, b"nonsense")
    _, (fault,), _ = _gather(supplied.directory)
    assert "is not a PEM" in fault


def test_a_server_certificate_is_no_ca(supplied: Supplied) -> None:
    supplied.put("ca.crt", (supplied.directory / "postgres.crt").read_bytes())
    _, (fault,), _ = _gather(supplied.directory)
    assert "is not a CA certificate" in fault


def test_another_ca_may_be_trusted_beside_the_own_one(tmp_path: Path) -> None:
    other = _made(tmp_path / "other").trusted
    directory = tmp_path / "secrets"
    own = _made(directory).trusted
    (directory / ALSO_TRUSTED).write_bytes(other)
    assert _made(directory).trusted == own + other
    (directory / ALSO_TRUSTED).write_bytes(b"")
    assert _made(directory).trusted == own


def test_what_is_trusted_beside_it_must_be_a_ca(tmp_path: Path) -> None:
    _made(tmp_path)
    (tmp_path / ALSO_TRUSTED).write_bytes((tmp_path / "postgres.crt").read_bytes())
    _, faults, _ = _gather(tmp_path)
    assert [ALSO_TRUSTED in fault and "is not a CA" in fault for fault in faults] == [True]


def test_a_hidden_certificate_is_made_anew(tmp_path: Path) -> None:
    before = _made(tmp_path)
    store = SecretStore(tmp_path)
    store.hide("postgres.crt")
    store.hide("postgres.key")
    found, faults = certificates(store, Validity(NOW, days=365, renew_days=30))
    assert not faults
    assert found
    assert found.servers["postgres"] != before.servers["postgres"]
    assert found.servers["pgbouncer"] == before.servers["pgbouncer"]
    assert set(store.pending) == {"postgres.crt", "postgres.key"}
