"""Send a PgBouncer replica what no driver sends, one connection for each, beside good clients.

    python -m tests.stack.probes.malformed ADDRESS

Prints {"ended": {name: [what PgBouncer said last, seconds until it closed the connection]},
"open": names of those that it did not close, "logged_in": {name: what a statement returned},
"beside": statements of a good client meanwhile, "failed": those of them that failed}. Those of
`logged_in` are slow or odd, but right.
"""

import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg

from tests.stack.probes.cancels import DATABASE, connect

SECONDS_MAX = 20.0
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)
CANCEL_REQUEST = struct.pack("!iiii", 16, 80877102, 1, 2)
PROTOCOL, OLD_PROTOCOL, NEXT_PROTOCOL = 3 << 16, 2 << 16, 4 << 16
MECHANISM = b"SCRAM-SHA-256"
QUERY = b"SELECT 40 + 2"

place = (sys.argv[1], int(DATABASE["port"]))


def startup(protocol: int = PROTOCOL, **more: str) -> bytes:
    """Return a startup packet of the service's role."""
    parameters = {"user": DATABASE["user"], "database": DATABASE["dbname"], **more}
    text = "".join(f"{part}\0" for pair in parameters.items() for part in pair)
    body = struct.pack("!i", protocol) + text.encode() + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def message(kind: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """Return a message, with a wrong length where one is given."""
    return kind + struct.pack("!i", len(body) + 4 if length is None else length) + body


def initial(text: bytes, mechanism: bytes = MECHANISM) -> bytes:
    """Return the first message of SASL."""
    return message(b"p", mechanism + b"\0" + struct.pack("!i", len(text)) + text)


class Client:
    """One connection; `slice` bytes at a time are sent where it is given."""

    def __init__(self, *, tls: bool = True, slice_bytes: int = 0) -> None:
        self._slice_bytes = slice_bytes
        self._socket: socket.socket = socket.create_connection(place, 10)
        self._socket.settimeout(SECONDS_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.encrypt()

    def encrypt(self) -> None:
        """Ask for TLS and begin it."""
        self.send(SSL_REQUEST)
        assert self._socket.recv(1) == b"S"
        context = ssl.create_default_context(cafile=DATABASE["sslrootcert"])
        self._socket = context.wrap_socket(self._socket, server_hostname=DATABASE["host"])

    def send(self, data: bytes) -> None:
        """Send, in slices."""
        size = self._slice_bytes or len(data)
        for start in range(0, len(data), max(size, 1)):
            self._socket.sendall(data[start : start + size])

    def read(self, count: int) -> bytes:
        """Return so many bytes."""
        found = b""
        while len(found) < count:
            data = self._socket.recv(min(count - len(found), self._slice_bytes or 65536))
            if not data:
                raise ConnectionResetError(found)
            found += data
        return found

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next message."""
        kind, length = self.read(1), struct.unpack("!i", self.read(4))[0]
        return kind, self.read(length - 4)

    def log_in(self, spoil: Callable[[bytes], bytes] = lambda final: final) -> None:
        """Log in by SCRAM; `spoil` changes the message with the proof."""
        self.send(startup())
        self.receive()
        nonce = base64.b64encode(os.urandom(18))
        bare = b"n=,r=" + nonce
        self.send(initial(b"n,," + bare))
        _, challenge = self.receive()
        fields = dict(part.split(b"=", 1) for part in challenge[4:].split(b","))
        password = Path(DATABASE["password_file"]).read_bytes().strip()
        rounds, salt = int(fields[b"i"]), base64.b64decode(fields[b"s"])
        salted = hashlib.pbkdf2_hmac("sha256", password, salt, rounds)
        key = hmac.digest(salted, b"Client Key", "sha256")
        without = b"c=biws,r=" + fields[b"r"]
        signed = b",".join([bare, challenge[4:], without])
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
        self.send(message(b"p", spoil(without + b",p=" + proof)))
        while self.receive()[0] != b"Z":
            pass

    def ask(self) -> str:
        """Return what the query returns."""
        self.send(message(b"Q", QUERY + b"\0"))
        row = b""
        while (received := self.receive())[0] != b"Z":
            if received[0] in (b"D", b"E"):
                row = received[1]
        return row.decode(errors="replace")[-2:]

    def end(self) -> str:
        """Read until PgBouncer closes; return the last error that it sent."""
        received = b""
        try:
            while data := self._socket.recv(65536):
                received += data
        except ConnectionError:
            pass
        return received.rpartition(b"\0M")[2].split(b"\0")[0].decode(errors="replace")


def before_login() -> Iterator[tuple[str, Callable[[], Client]]]:
    """Yield what comes instead of a login."""
    long = struct.pack("!i", 2**31 - 1) + struct.pack("!i", PROTOCOL)
    packets = {
        "a startup of two gigabytes": long,
        "a startup of a negative length": struct.pack("!ii", -1, PROTOCOL),
        "a startup of no length": struct.pack("!ii", 0, PROTOCOL),
        "a startup shorter than its header": struct.pack("!ii", 7, PROTOCOL),
        "a startup that is cut": startup()[:-6],
        "a startup of a hundred kilobytes": startup(x="y" * 100_000),
        "a startup without an end": startup()[:-1] + b"x",
        "a startup without a user": struct.pack("!ii", 9, PROTOCOL) + b"\0",
        "a startup twice": startup() * 2,
        "an old protocol": startup(OLD_PROTOCOL),
        "a protocol to come": startup(NEXT_PROTOCOL),
        "garbage": bytes(range(256)) * 8,
        "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        "a query before the login": message(b"Q", QUERY + b"\0"),
        "nothing": b"",
        "a mechanism that is none": startup() + initial(b"n,,n=,r=a", b"SCRAM-MD5"),
        "SASL of a negative length": startup() + message(b"p", MECHANISM + b"\0\xff\xff\xff\xff"),
        "SASL longer than its message": startup()
        + message(b"p", MECHANISM + b"\0" + struct.pack("!i", 9999) + b"n,,n=,r=a"),
        "SASL of a megabyte": startup() + initial(b"n,,n=,r=" + b"a" * 1_000_000),
        "SASL without a nonce": startup() + initial(b"n,,n="),
        "SASL twice": startup() + initial(b"n,,n=,r=abcdefgh") * 2,
        "SASL with NUL": startup() + initial(b"n,,n=\0,r=\0"),
        "a message of a negative length": startup() + message(b"p", b"", length=-1),
    }

    def sent(packet: bytes, *, tls: bool) -> Client:
        client = Client(tls=tls)
        client.send(packet)
        return client

    for name, packet in packets.items():
        yield name, lambda packet=packet: sent(packet, tls=True)  # type: ignore[misc]
    for name, packet in {
        "plaintext": startup(),
        "plaintext after the request for TLS": SSL_REQUEST + startup(),
        "TLS asked for twice": SSL_REQUEST * 2,
        "GSSAPI, then nothing": GSS_REQUEST,
        "a cancel request with another's key": CANCEL_REQUEST,
        "half a request for TLS": SSL_REQUEST[:5],
    }.items():
        yield name, lambda packet=packet: sent(packet, tls=False)  # type: ignore[misc]


def after_login() -> Iterator[tuple[str, Callable[[], Client]]]:
    """Yield what comes in the place of the proof, or of a statement."""

    def spoilt(spoil: Callable[[bytes], bytes]) -> Client:
        client = Client()
        with suppress(ConnectionError):
            client.log_in(spoil)
        return client

    def sent(packet: bytes) -> Client:
        client = Client()
        client.log_in()
        client.send(packet)
        return client

    for name, spoil in {
        "another nonce": lambda final: final.replace(b"r=", b"r=x"),
        "no proof": lambda final: final.split(b",p=")[0],
        "a proof of another": lambda final: final[:-6] + b"AAAA" + final[-2:],
        "an empty proof": lambda _: b"",
        "a proof of a megabyte": lambda final: final + b"A" * 1_000_000,
    }.items():
        yield name, lambda spoil=spoil: spoilt(spoil)  # type: ignore[misc]
    for name, packet in {
        "a statement of two gigabytes": message(b"Q", QUERY, length=2**31 - 1),
        "a statement of a negative length": message(b"Q", QUERY, length=-9),
        "half a statement": message(b"Q", QUERY, length=999),
        "a message of an unknown kind": message(b"!", b"x"),
        "another startup": startup(),
        "a parse without an end": message(b"P", b"name"),
        "a bind with a thousand formats and none": message(b"B", b"\0\0" + b"\3\xe8"),
        "a close of no kind": message(b"C", b""),
        "a password after the login": message(b"p", b"password\0"),
    }.items():
        yield name, lambda packet=packet: sent(packet)  # type: ignore[misc]


def in_slices() -> str:
    """Log in and ask, a byte at a time in either direction."""
    client = Client(slice_bytes=1)
    client.log_in()
    return client.ask()


def after_gssapi() -> str:
    """Ask for GSSAPI first, as libpq can, then for TLS."""
    client = Client(tls=False)
    client.send(GSS_REQUEST)
    assert client.read(1) == b"N"
    client.encrypt()
    client.log_in()
    return client.ask()


def how_it_ended(make: Callable[[], Client]) -> tuple[str, float | None]:
    """Return the last error and the seconds until the end, None where it did not come."""
    began = time.monotonic()
    try:
        said = make().end()
    except TimeoutError:
        return "", None
    except (ConnectionError, ssl.SSLError) as error:
        said = type(error).__name__
    return said, time.monotonic() - began


def main() -> None:
    """Do all at once."""
    ending = threading.Event()
    counts = {"beside": 0, "failed": 0}

    def stand_by() -> None:
        with connect(place) as connection:
            while not ending.is_set():
                try:
                    connection.execute("SELECT 1")
                    counts["beside"] += 1
                except psycopg.Error:
                    counts["failed"] += 1
                    return

    beside = threading.Thread(target=stand_by)
    beside.start()
    cases = dict([*before_login(), *after_login()])
    with ThreadPoolExecutor(len(cases)) as threads:
        ended = dict(zip(cases, threads.map(how_it_ended, cases.values()), strict=True))
    logged_in = {"in slices": in_slices(), "after GSSAPI": after_gssapi()}
    ending.set()
    beside.join()
    stayed = [name for name, (_, seconds) in ended.items() if seconds is None]
    print(json.dumps({"ended": ended, "open": stayed, "logged_in": logged_in, **counts}))


if __name__ == "__main__":
    main()
