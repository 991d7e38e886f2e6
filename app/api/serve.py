"""`python -m app.api.serve`: a process that answers, started by the supervisor in a slot.

Its side of a restart: say that it is ready, ask for a new process, make way for it.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from app.api import channel
from app.api.application import create_app
from app.api.sharing import share_metrics
from app.api.supervisor import READY_SECONDS_MAX, RETIRING_SECONDS_MAX
from app.control.process import NotRestartedError, Process
from app.control.server import ControlServer
from app.database import Database, open_or_fail, open_or_warn
from app.log import configure_logging, get_logger
from app.pool import DatabaseUnavailable
from app.server import make_server
from app.settings import (
    ApiSettings,
    ControlSettings,
    Live,
    SettingsError,
    load_settings,
    settings_path,
)

# Another slot may be replaced first, and each time the old process ends before the next starts.
ANSWER_SECONDS_MAX = 2 * (READY_SECONDS_MAX + RETIRING_SECONDS_MAX) + 5.0


class Handover:
    """The channel to the supervisor. Methods may be called from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._one_at_a_time = threading.Lock()
        self._answered = threading.Event()
        self._refusal = ""

    def ready(self) -> None:
        """Say that requests are answered from now on."""
        channel.send(self._end, channel.READY)

    def failed(self, reason: str) -> None:
        """Say why this process is about to end."""
        channel.send(self._end, channel.FAILED, reason)

    def listen(self, retire: Callable[[bool], None]) -> None:
        """Call `retire` when this process is to end; returns at once.

        With True if a new process has its slot.
        """
        threading.Thread(target=self._listen, args=(retire,), name="handover", daemon=True).start()

    def restart(self) -> None:
        """Have a new process take over; return once it serves, and this one makes way.

        Raises:
            NotRestartedError: the new process did not become ready.

        """
        with self._one_at_a_time:
            self._answered.clear()
            channel.send(self._end, channel.RESTART)
            if not self._answered.wait(ANSWER_SECONDS_MAX):
                raise NotRestartedError("the supervisor has not answered")
            if self._refusal:
                raise NotRestartedError(self._refusal)

    def _listen(self, retire: Callable[[bool], None]) -> None:
        while (message := channel.wait(self._end)) is not None:
            word, text = message
            if word == channel.RETIRE:
                retire(text != channel.SURPLUS)
            elif word in (channel.RESTARTED, channel.REFUSED):
                self._refusal = text if word == channel.REFUSED else ""
                self._answered.set()
        # Nobody would ever stop a process that its supervisor has left.
        os.kill(os.getpid(), signal.SIGTERM)


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
    configure_logging("api", settings.log.level, settings.log.format, process=options.slot + 1)
    log = get_logger("app.api")
    log.info("starting", host=settings.http.host, port=settings.http.port)

    def open_or_report(database: Database) -> None:
        try:
            open_or_fail(database)
        except DatabaseUnavailable as error:
            handover.failed(error.reason)
            raise

    live = Live(settings)
    share_metrics(options.seat)
    # The first process may wait for its database; one that replaces a good one may not.
    opening = open_or_report if options.replacement else open_or_warn
    app = create_app(live, opening=opening, sharing=True)
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
    with ControlServer(process, _of_slot(settings.control, options.slot)) as control:

        def retire(succeeded: bool) -> None:
            log.info("making way", successor=succeeded)
            # A successor has the port now. A surplus process shows that it is there to the end.
            if succeeded:
                control.stop()
            services.ending = True
            server.retire()

        handover.listen(retire)
        server.run(sockets=[socket.socket(fileno=number) for number in options.listener])
    log.info("stopped", clean=server.started)
    # A server that never started has logged why.
    return 0 if server.started else 1


def _of_slot(control: ControlSettings, slot: int) -> ControlSettings:
    """Return the control plane's settings with the port of a slot: one for each, in order."""
    return control.model_copy(update={"port": control.port + slot})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m app.api.serve",
        description="A process that answers, started by the supervisor.",
    )
    parser.add_argument(
        "--listener", type=int, action="append", required=True, help="descriptor of a socket"
    )
    parser.add_argument("--channel", type=int, required=True, help="descriptor to the supervisor")
    parser.add_argument("--slot", type=int, required=True, help="which process it is, from 0")
    parser.add_argument("--seat", type=int, required=True, help="which files its metrics are in")
    parser.add_argument("--replacement", action="store_true", help="be ready, or do not serve")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
