"""The one address of this process on the control network."""

import errno
import socket
from contextlib import closing


def bound_socket(alias: str, port: int) -> socket.socket:
    """Return a socket bound to whichever address of `alias` is this host's own.

    All replicas share the alias, and each has one of its addresses.

    Raises:
        OSError: the name is not known, none of its addresses is ours, or the port is taken.

    """
    # The family that operators resolve the alias with.
    known = socket.getaddrinfo(alias, port, socket.AF_INET, socket.SOCK_STREAM)
    for family, kind, protocol, _name, address in known:
        bound = _bound(socket.socket(family, kind, protocol), address)
        if bound is not None:
            return bound
    addresses = ", ".join(str(one[4][0]) for one in known)
    raise OSError(errno.EADDRNOTAVAIL, f"{alias} ({addresses}) names no address of this host")


def is_still_ours(bound: socket.socket) -> bool:
    """Tell whether the address of a bound socket still belongs to this host."""
    host = bound.getsockname()[0]
    with closing(socket.socket(bound.family, bound.type)) as trial:
        return _bound(trial, (host, 0)) is not None


def _bound(candidate: socket.socket, address: tuple[object, ...]) -> socket.socket | None:
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A process that replaces another listens beside it until that makes way.
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        candidate.bind(address)
    except OSError as error:
        candidate.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return candidate
