"""SCRAM-SHA-256 verifiers as PostgreSQL stores them (RFC 5802, RFC 7677)."""

import base64
import hashlib
import hmac
import re

# PostgreSQL's default (scram_iterations); both ends of the pool must agree on it.
ITERATIONS = 4096
SALT_BYTES = 16

_VERIFIER = re.compile(
    r"SCRAM-SHA-256\$([0-9]+):([A-Za-z0-9+/=]+)\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+\Z"
)


def verifier(password: str, salt: bytes, *, iterations: int = ITERATIONS) -> str:
    """Return `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.

    The password must be printable ASCII, for which SASLprep changes nothing.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored_key)}:{_text(server_key)}"


def matches(password: str, stored: str) -> bool:
    """Return True if `stored` is the verifier of `password` at the usual iterations."""
    found = _VERIFIER.match(stored)
    if not found or int(found.group(1)) != ITERATIONS:
        return False
    try:
        salt = base64.b64decode(found.group(2), validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(verifier(password, salt), stored)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
