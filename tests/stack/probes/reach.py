"""Try TCP connections. Argument: a JSON list of [host, port]; prints a list of truth values."""

import json
import socket
import sys


def reaches(host: str, port: int) -> bool:
    """Return True if a connection opens."""
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


print(json.dumps([reaches(host, port) for host, port in json.loads(sys.argv[1])]))
