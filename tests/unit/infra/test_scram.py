"""SCRAM verifiers against published values."""

import base64
import hashlib
import hmac

import pytest

from infra.config import scram

# The exchange of RFC 7677, section 3: user "user", password "pencil".
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
SERVER_SIGNATURE = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
CLIENT_PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
AUTH_MESSAGE = (
    b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)


def _keys(text: str) -> tuple[bytes, bytes]:
    stored, server = text.rsplit("$", 1)[1].split(":")
    return base64.b64decode(stored), base64.b64decode(server)


def test_the_server_key_signs_as_in_the_published_exchange() -> None:
    _, server_key = _keys(scram.verifier("pencil", SALT))
    signature = hmac.digest(server_key, AUTH_MESSAGE, "sha256")
    assert base64.b64encode(signature).decode() == SERVER_SIGNATURE


def test_the_stored_key_accepts_the_published_proof() -> None:
    stored_key, _ = _keys(scram.verifier("pencil", SALT))
    signature = hmac.digest(stored_key, AUTH_MESSAGE, "sha256")
    proof = base64.b64decode(CLIENT_PROOF)
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


def test_the_verifier_has_the_form_postgresql_stores() -> None:
    made = scram.verifier("pencil", SALT)
    assert made.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")


def test_a_verifier_matches_its_own_password_only() -> None:
    made = scram.verifier("pencil", SALT)
    assert scram.matches("pencil", made)
    assert not scram.matches("pencils", made)


@pytest.mark.parametrize("stored", ["", "md5abc", "SCRAM-SHA-256$4096:====$a:b", "SCRAM-SHA-256$1"])
def test_what_is_no_verifier_matches_nothing(stored: str) -> None:
    assert not scram.matches("pencil", stored)


def test_other_iterations_do_not_match() -> None:
    assert not scram.matches("pencil", scram.verifier("pencil", SALT, iterations=8192))
