"""`python -m app.api.serve`: the process that answers, started by the supervisor."""

import argparse
import socket
import sys

from app.api.application import create_app
from app.api.handover import Handover
from app.control.process import Process
from app.control.server import ControlServer
from app.database import Database, open_or_fail, open_or_warn
from app.log import configure_logging, get_logger
from app.pool import DatabaseUnavailable
from app.server import make_server
from app.settings import ApiSettings, Live, SettingsError, load_settings, settings_path


def main() -> int:
    """Serve; return the exit code."""
    options = _options()
    handover = Handover(socket.socket(fileno=options.channel))
    path = settings_path("api")
    try:
        settings = load_settings(path, ApiSettings)
    except SettingsError as error:
        handover.failed(str(error))
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging("api", settings.log.level, settings.log.format)
    log = get_logger("app.api")
    log.info("starting", host=settings.http.host, port=settings.http.port)

    def open_or_tell(database: Database) -> None:
        try:
            open_or_fail(database)
        except DatabaseUnavailable as error:
            handover.failed(error.reason)
            raise

    live = Live(settings)
    # The first process may wait for its database; one that replaces a good one may not.
    app = create_app(live, opening=open_or_tell if options.replacement else open_or_warn)
    services = app.state.services
    server = make_server(app, settings.http, on_started=handover.ready)
    process = Process(
        live,
        path,
        services.database,
        restarting=handover.restart,
        last_minute=services.last_minute,
    )
    # Around the server: an operator can look at the process until it makes way.
    with ControlServer(process, settings.control) as control:

        def retire() -> None:
            log.info("making way for the new process")
            control.stop()
            services.ending = True
            server.retire()

        handover.listen(retire)
        server.run(sockets=[socket.socket(fileno=options.listener)])
    log.info("stopped", clean=server.started)
    # A server that never started has logged why.
    return 0 if server.started else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m app.api.serve", description=__doc__)
    parser.add_argument("--listener", type=int, required=True, help="descriptor of the socket")
    parser.add_argument("--channel", type=int, required=True, help="descriptor to the supervisor")
    parser.add_argument("--replacement", action="store_true", help="be ready, or do not serve")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
