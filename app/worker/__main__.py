"""`python -m app.worker`: work until SIGTERM; exit 1 when a thread died of a bug."""

import sys

from prometheus_client import CollectorRegistry

from app.control.process import Process
from app.control.server import ControlServer
from app.database import Database, make_database
from app.log import configure_logging, get_logger
from app.metrics import WorkMetrics, make_registry
from app.server import Server, make_server
from app.settings import Live, SettingsError, WorkerSettings, load_settings, settings_path
from app.worker.crew import Crew, create_status_app


def main() -> int:
    """Work; return the exit code."""
    path = settings_path("worker")
    try:
        settings = load_settings(path, WorkerSettings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging("worker", settings.log.level, settings.log.format)
    live = Live(settings)
    registry = make_registry()
    database = make_database(settings, registry)
    crew, server = _assemble(live, database, registry)
    get_logger("app.worker").info("starting", threads=settings.worker.threads)
    # Around the server: an operator can look at the process until it has stopped.
    with ControlServer(Process(live, path, database), settings.control):
        server.run()
    return int(crew.crashed or not server.started)


def _assemble(
    live: Live[WorkerSettings], database: Database, registry: CollectorRegistry
) -> tuple[Crew, Server]:
    # The server needs the crew to stop it, the crew the server to end the process.
    servers: list[Server] = []

    def end_process() -> None:
        for server in servers:
            server.should_exit = True

    crew = Crew(database, live, WorkMetrics(registry), on_crash=end_process)
    app = create_status_app(crew, database, registry)
    servers.append(make_server(app, live.current.http, on_stop=crew.stop_claiming))
    return crew, servers[0]


if __name__ == "__main__":
    sys.exit(main())
