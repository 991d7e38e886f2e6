"""The commands that look at the running stack and restart parts of it."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_DIRECTORY = Path("/out/ops")
_SETTINGS = Path("/etc/sluice/ops/ops.json")

Settings = Annotated[
    Path, typer.Option("--settings", help="Where the tiers are.", envvar="SLUICE_OPS_SETTINGS")
]
Directory = Annotated[
    Path, typer.Option("--directory", help="Where the locks are.", envvar="SLUICE_OPS_DIRECTORY")
]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for another operation.", min=0)
]


def register(app: typer.Typer) -> None:
    """Add `status`, `restart`, `pgbouncer` and the dead-man to the command line."""
    app.command("status")(_status)
    app.command("dead-man", hidden=True)(_dead_man)
    restart = typer.Typer(help="Restart a tier; make restart-... does the host's part of it.")
    restart.command("postgres")(_restart_postgres)
    restart.command("pgbouncer")(_restart_pgbouncer)
    restart.command("app")(_restart_app)
    app.add_typer(restart, name="restart")
    pgbouncer = typer.Typer(help="Steps of changing the number of PgBouncer replicas.")
    pgbouncer.command("retire")(_retire)
    pgbouncer.command("spread")(_spread)
    app.add_typer(pgbouncer, name="pgbouncer")


def _status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    watch: Annotated[bool, typer.Option(help="Refresh until interrupted.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    settings: Settings = _SETTINGS,
) -> None:
    """Show the whole path, and what holds it up now. Exit code 1: a process does not answer."""
    from infra.ops import settings as ops_settings
    from infra.ops.status import command

    read = ops_settings.read(settings)
    sys.exit(command.show(read, as_json=as_json, watch=watch, every_seconds=every))


def _restart_postgres(
    settings: Settings = _SETTINGS, directory: Directory = _DIRECTORY, wait: Wait = 0.0
) -> None:
    """Restart PostgreSQL while clients wait. Exit code 3: refused, nothing was done."""
    from infra.ops import restart_postgres
    from infra.ops import settings as ops_settings

    sys.exit(restart_postgres.run(ops_settings.read(settings), directory, wait_seconds=wait))


def _dead_man(settings: Settings = _SETTINGS, directory: Directory = _DIRECTORY) -> None:
    """Resume every PgBouncer when the command that paused it has died."""
    from infra.ops import dead_man
    from infra.ops import settings as ops_settings

    sys.exit(dead_man.watch(ops_settings.read(settings), directory))


def _restart_pgbouncer(
    settings: Settings = _SETTINGS, directory: Directory = _DIRECTORY, wait: Wait = 0.0
) -> None:
    """Restart every PgBouncer replica, one at a time, while the others serve."""
    from infra.ops import rolling
    from infra.ops import settings as ops_settings

    read = ops_settings.read(settings)
    sys.exit(rolling.restart(read, directory, wait_seconds=wait))


class Service(StrEnum):
    """What `restart app` restarts."""

    API = "api"
    WORKER = "worker"


def _restart_app(
    services: Annotated[
        list[Service] | None, typer.Argument(help="api, worker or both; both when not given.")
    ] = None,
    new_api_container: Annotated[
        bool, typer.Option(help="The image or definition of the api has changed.")
    ] = False,
    settings: Settings = _SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
) -> None:
    """Restart api and worker with no request failing and no task lost."""
    from infra.ops import restart_app
    from infra.ops import settings as ops_settings

    code = restart_app.restart(
        ops_settings.read(settings),
        directory,
        tuple(str(one) for one in services or list(Service)),
        new_api_container=new_api_container,
        wait_seconds=wait,
    )
    sys.exit(code)


def _retire(
    name: Annotated[str, typer.Argument(help="Container of the replica.")],
    settings: Settings = _SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
) -> None:
    """Empty one PgBouncer replica and have the host remove it."""
    from infra.ops import rolling
    from infra.ops import settings as ops_settings

    read = ops_settings.read(settings)
    sys.exit(rolling.retire(read, directory, name, wait_seconds=wait))


def _spread(
    replicas: Annotated[int, typer.Argument(help="How many replicas are to serve.", min=1)],
    settings: Settings = _SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
) -> None:
    """Spread the app's connections over all PgBouncer replicas, new ones included."""
    from infra.ops import rolling
    from infra.ops import settings as ops_settings

    read = ops_settings.read(settings)
    sys.exit(rolling.spread(read, directory, replicas, wait_seconds=wait))
