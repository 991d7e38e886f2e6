"""Begin a login with each startup parameter given as NAME=VALUE, one at a time.

Prints {NAME: "" where PgBouncer goes on to ask for the password, else what it says}.
"""

import json
import os
import socket
import ssl
import struct
import sys
from pathlib import Path

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PROTOCOL = 196608
DATABASE = json.loads(Path(os.environ["SLUICE_SETTINGS"]).read_text())["database"]


def answer(name: str, value: str) -> str:
    """Return what the first message after the startup packet says; nothing if it asks on."""
    parameters = {"user": DATABASE["user"], "database": DATABASE["dbname"], name: value}
    text = "".join(f"{part}\0" for pair in parameters.items() for part in pair) + "\0"
    context = ssl.create_default_context(cafile=DATABASE["sslrootcert"])
    with socket.create_connection((DATABASE["host"], DATABASE["port"]), 10) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=DATABASE["host"]) as connection:
            connection.sendall(struct.pack("!ii", 8 + len(text), PROTOCOL) + text.encode())
            found = connection.recv(1024)
    return "" if found[:1] == b"R" else found[5:].replace(b"\0", b" ").decode()


print(
    json.dumps({name: answer(name, value) for name, value in (a.split("=") for a in sys.argv[1:])})
)
