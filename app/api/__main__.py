"""`python -m app.api`: the HTTP service until SIGTERM."""

import sys

from app.api.application import create_app
from app.log import configure_logging, get_logger
from app.server import make_server
from app.settings import ApiSettings, SettingsError, load_settings, settings_path


def main() -> int:
    """Serve; return the exit code."""
    try:
        settings = load_settings(settings_path("api"), ApiSettings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging("api", settings.log.level)
    log = get_logger("app.api")
    log.info("starting", host=settings.http.host, port=settings.http.port)
    server = make_server(create_app(settings), settings.http)
    server.run()
    log.info("stopped", clean=server.started)
    # A server that never started has logged why.
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
