"""`python -m app.api`: the HTTP service until SIGTERM.

Checks the settings, binds the socket, and becomes the supervisor of the serving processes.
"""

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from app.settings import ApiSettings, HttpSettings, SettingsError, load_settings, settings_path

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
    try:
        _become_supervisor(_bound(settings.http), path, settings.log.format)
    except OSError as error:
        sys.stderr.write(f"{settings.http.host}:{settings.http.port}: {error.strerror}\n")
        return 1


def _become_supervisor(listener: socket.socket, settings: Path, log_format: str) -> NoReturn:
    """Start anew, without all that reading settings has loaded: it stays for the whole time."""
    listener.set_inheritable(True)
    command = [sys.executable, "-m", "app.api.supervisor"]
    command += [str(listener.fileno()), str(settings), log_format]
    os.execv(sys.executable, command)  # noqa: S606  # no shell is wanted


def _bound(http: HttpSettings) -> socket.socket:
    """Return a socket that is bound and does not listen: the first serving process begins that."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Its connections have it too. For a caller who takes nothing the kernel would keep 4 MB.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    listener.bind((http.host, http.port))
    return listener


if __name__ == "__main__":
    sys.exit(main())
