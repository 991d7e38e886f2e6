"""Certificates rotated under load: no request fails, and what is replaced is refused."""

from __future__ import annotations

import base64
import datetime
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.config import issuing
from tests.faults.oracle import (
    check_deadlines,
    check_no_failure,
    check_nothing_left,
    check_writes,
)
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_host import UseHop
from tests.fix_ops import Commands, EnvDir
from tests.fix_secrets import Given, Secrets
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, poll, run_in

BAD_INPUT = 2
DAYS_LEFT = 30
# Tells what comes of connecting as one who trusts only the given CA.
TRUST = """
import base64, socket, ssl, struct, sys
host, port, trusted = sys.argv[1], int(sys.argv[2]), base64.b64decode(sys.argv[3]).decode()
plain = socket.create_connection((host, port), 5)
plain.sendall(struct.pack("!ii", 8, 80877103))
assert plain.recv(1) == b"S"
try:
    ssl.create_default_context(cadata=trusted).wrap_socket(plain, server_hostname=host)
except ssl.SSLCertVerificationError as error:
    print("refused:", error.verify_message)
else:
    print("trusted")
"""
# Sessions of the app that are older than a moment.
APP_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('risk_api', 'risk_worker')"
    " AND backend_start < to_timestamp({})"
)


def trust(stack: Stack, authority: str, host: str, port: int) -> str:
    """Return what comes of connecting to a server as one who trusts only this CA."""
    encoded = base64.b64encode(authority.encode()).decode()
    command = ["python", "-c", TRUST, host, str(port), encoded]
    code, text = run_in(stack.container("api"), command)
    assert code == 0, text
    return text.strip()


@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="certificates"),
        pytest.param(("--ca",), id="and CA", marks=pytest.mark.slow),
    ],
)
def test_certificates_are_rotated_under_load_without_a_failure(
    stack: Stack,
    sql: Sql,
    ops: Commands,
    secrets: Secrets,
    make_load: MakeLoad,
    deadline_seconds: float,
    options: tuple[str, ...],
) -> None:
    names = ("postgres.crt", "pgbouncer.crt", "api-control.crt", "worker-control.crt")
    old = {name: secrets.read(name) for name in (*names, "ca.crt")}
    with make_load() as load:
        wait_for_traffic(load)
        began = time.time()
        done = ops.run("rotate", "certificates", *options)
        assert done.exit_code == 0, done.text
        hold(5)
    assert all(secrets.read(name) != old[name] for name in names)
    assert (secrets.read("ca.crt") != old["ca.crt"]) is bool(options)
    outcome = trust(stack, old["ca.crt"], "pgbouncer", 6432)
    assert outcome.startswith("refused" if options else "trusted"), outcome
    assert trust(stack, secrets.read("ca.crt"), "pgbouncer", 6432) == "trusted"
    assert sql.value(APP_SESSIONS.format(began)) == "0"
    check_no_failure(load)
    check_deadlines(load, deadline_seconds)
    check_writes(load, sql)
    check_nothing_left(sql, seconds=240)


# Long enough to be placed and applied on a busy machine.
SOON_DAYS = 90 / 86400
PLACE = (
    "umask 277; cd /secrets; rm -f pgbouncer.crt pgbouncer.key;"
    'printf %s "$1" >pgbouncer.crt; printf %s "$2" >pgbouncer.key'
)
PUT_PAIR = (
    'umask 077; printf %s "$1" >/out/postgres/s.crt; printf %s "$2" >/out/postgres/s.key;'
    "chmod 400 /out/postgres/s.*; chown 10070:10070 /out/postgres/s.*;"
    "mv /out/postgres/s.crt /out/postgres/server.crt;"
    "mv /out/postgres/s.key /out/postgres/server.key"
)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_after_a_new_ca_pgbouncer_refuses_a_server_with_the_old_certificate(
    stack: Stack,
    sql: Sql,
    console: AdminConsole,
    ops: Commands,
    secrets: Secrets,
    use_hop: UseHop,
) -> None:
    use_hop("tls")
    old = [secrets.read(name) for name in ("postgres.crt", "postgres.key")]
    assert ops.run("rotate", "certificates", "--ca").exit_code == 0
    new = [secrets.read(name) for name in ("postgres.crt", "postgres.key")]
    container = stack.container("pgbouncer")
    since = int(time.time())
    try:
        secrets.sh(PUT_PAIR, *old)
        sql.value("SELECT pg_reload_conf()")
        console.command("RECONNECT risk_monitor")
        poll(
            lambda: "certificate verify failed" in container.logs(since=since).decode(),
            seconds=20,
            what="PgBouncer refuses the old certificate",
        )
    finally:
        secrets.sh(PUT_PAIR, *new)
        sql.value("SELECT pg_reload_conf()")


def _key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key, key.private_bytes(encoding, private, serialization.NoEncryption())


def _pair(
    secrets: Secrets, *, name: str = "pgbouncer", days_left: float = DAYS_LEFT
) -> tuple[bytes, bytes]:
    """Return a pair as an operator's own tools make it, signed by the stack's CA."""
    authority = x509.load_pem_x509_certificate(secrets.read("ca.crt").encode())
    signer = serialization.load_pem_private_key(secrets.read("ca.key").encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, pem = _key()
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days_left))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), pem


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "expired at"),
        ("another host", "it must also name pgbouncer"),
        ("another key", "does not belong to pgbouncer.key"),
        ("no key", "there is no pgbouncer.key"),
        ("no certificate", "is not a PEM certificate"),
    ],
)
def test_a_bad_certificate_is_named_and_leaves_the_old_serving(
    stack: Stack, secrets: Secrets, given: Given, fault: str, reason: str
) -> None:
    before = secrets.read("pgbouncer.crt"), secrets.read("postgres.crt")
    certificate, key = _pair(
        secrets,
        name="elsewhere" if fault == "another host" else "pgbouncer",
        days_left=-1 if fault == "expired" else DAYS_LEFT,
    )
    (given.path / "pgbouncer.crt").write_bytes(b"x" if fault == "no certificate" else certificate)
    if fault != "no key":
        (given.path / "pgbouncer.key").write_bytes(_key()[1] if fault == "another key" else key)
    done = given.rotate("certificates")
    assert done.exit_code == BAD_INPUT, done.text
    assert "/given/pgbouncer.crt: " in done.text
    assert reason in done.text
    assert (secrets.read("pgbouncer.crt"), secrets.read("postgres.crt")) == before
    assert trust(stack, secrets.read("ca.crt"), "pgbouncer", 6432) == "trusted"


@pytest.mark.usefixtures("whole_again")
def test_a_supplied_certificate_is_taken(stack: Stack, secrets: Secrets, given: Given) -> None:
    certificate, key = _pair(secrets)
    (given.path / "pgbouncer.crt").write_bytes(certificate)
    (given.path / "pgbouncer.key").write_bytes(key)
    try:
        done = given.rotate("certificates")
        assert done.exit_code == 0, done.text
        assert secrets.read("pgbouncer.crt") == certificate.decode()
    finally:
        # What was supplied is kept by later rotations: have it made here again.
        secrets.sh("rm -f /secrets/pgbouncer.crt /secrets/pgbouncer.key")
        assert stack.compose("run", "--rm", "--no-deps", "ops", "apply").returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_an_expired_certificate_is_named_and_one_command_gets_out_of_it(
    stack: Stack, ops: Commands, secrets: Secrets, given: Given, env: EnvDir
) -> None:
    certificate, key = _pair(secrets, days_left=SOON_DAYS)
    # Placed as an earlier release would have taken it, so that no rotation races its end.
    secrets.sh(PLACE, certificate.decode(), key.decode())
    printed = ops.run("plan", "--quiet")
    assert printed.exit_code == 0, printed.text
    assert "pgbouncer.crt: expires at" in printed.stderr
    assert ops.run("apply").exit_code == 0
    expired = poll(
        lambda: done if (done := ops.run("plan", "--quiet")).exit_code == BAD_INPUT else None,
        seconds=120,
        what="plan names the expired certificate",
    )
    assert expired is not None
    assert "pgbouncer.crt: expired at" in expired.stderr
    assert "make rotate-certificates" in expired.stderr
    refused = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "config")
    assert refused.returncode == BAD_INPUT
    assert "pgbouncer.crt: expired at" in refused.stderr
    # Nor does the way out need the operator's files, which `config` would have to write.
    secrets.sh("rm -rf /out/ops/*")
    done = ops.script("rotate-certificates", env=env)
    assert done.exit_code == 0, done.text
    assert "pgbouncer.crt: was supplied" in done.text
    assert trust(stack, secrets.read("ca.crt"), "pgbouncer", 6432) == "trusted"
    assert ops.run("plan", "--quiet").exit_code == 0


# Prints what a server shows to who connects now.
SHOWN = """
import socket, ssl, struct, sys
plain = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
plain.sendall(struct.pack("!ii", 8, 80877103))
assert plain.recv(1) == b"S"
context = ssl._create_unverified_context()
shown = context.wrap_socket(plain).getpeercert(binary_form=True)
print(ssl.DER_cert_to_PEM_cert(shown))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again")
def test_a_start_that_renews_a_certificate_has_the_running_servers_show_it(
    stack: Stack, ops: Commands, secrets: Secrets, env: EnvDir
) -> None:
    certificate = x509.load_pem_x509_certificate(secrets.read("ca.crt").encode())
    key = serialization.load_pem_private_key(secrets.read("ca.key").encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = issuing.Pair(certificate, b"", key, b"")
    due = issuing.make_server("pgbouncer", authority, datetime.datetime.now(datetime.UTC), 10)
    secrets.sh(PLACE, due.certificate_pem.decode(), due.key_pem.decode())
    done = ops.make("--old-file=build", "up", env=env)
    assert done.exit_code == 0, done.text
    renewed = secrets.read("pgbouncer.crt")
    assert renewed != due.certificate_pem.decode()
    code, shown = run_in(stack.container("api"), ["python", "-c", SHOWN, "pgbouncer", "6432"])
    assert code == 0, shown
    assert shown.strip() == renewed.strip()
    assert ops.script("rotate-certificates", "--due", env=env).exit_code == 0
    assert secrets.read("pgbouncer.crt") == renewed
