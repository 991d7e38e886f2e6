"""`python -m app.api`: the HTTP service until SIGTERM.

Checks the settings, binds the sockets, and becomes the supervisor of the serving processes.
"""

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from app.settings import ApiSettings, SettingsError, load_settings, settings_path

# Of an answer, in the kernel of this side; enough for the next milliseconds.
UNSENT_BYTES = 128 * 1024


def main() -> int:
    """Become the supervisor; return the exit code where that fails."""
    path = settings_path("api")
    try:
        settings = load_settings(path, ApiSettings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    listeners = []
    for port in (settings.http.port, settings.monitor_port):
        try:
            listeners.append(_bound(settings.http.host, port))
        except OSError as error:
            sys.stderr.write(f"{settings.http.host}:{port}: {error.strerror}\n")
            return 1
    return _become_supervisor(listeners, path, settings.log.format)


def _become_supervisor(listeners: list[socket.socket], settings: Path, log_format: str) -> NoReturn:
    """Start anew, without all that reading settings has loaded: it stays for the whole time."""
    command = [sys.executable, "-m", "app.api.supervisor", str(settings), log_format]
    command += [str(listener.fileno()) for listener in listeners]
    os.execv(sys.executable, command)  # noqa: S606  # no shell is wanted


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen: the first serving process begins that."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Its connections have it too. For a caller who takes nothing the kernel would keep 4 MB.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    listener.bind((host, port))
    listener.set_inheritable(True)
    return listener


if __name__ == "__main__":
    sys.exit(main())
