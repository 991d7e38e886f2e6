"""The commands that look at the running stack and restart parts of it."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infra.ops.cli_options import SETTINGS, AsJson, Settings, Wait, read_settings

_DIRECTORY = Path("/out/ops")

Directory = Annotated[
    Path, typer.Option("--directory", help="Where the locks are.", envvar="SLUICE_OPS_DIRECTORY")
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
    pgbouncer = typer.Typer(help="Replace PgBouncer's connections, or change its replicas.")
    pgbouncer.command("reconnect")(_reconnect)
    pgbouncer.command("retire")(_retire)
    pgbouncer.command("spread")(_spread)
    app.add_typer(pgbouncer, name="pgbouncer")


def _status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Refresh until interrupted.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    containers: Annotated[
        str,
        typer.Option(help="What the host knows; make status fills it.", envvar="SLUICE_CONTAINERS"),
    ] = "",
    settings: Settings = SETTINGS,
) -> None:
    """Show the whole path, and its current bottleneck. Exit code 1: a process does not answer."""
    from infra.ops.status import command, host_facts

    read = read_settings(settings, as_json=as_json)
    try:
        host = host_facts.parse(containers)
    except ValueError as error:
        # The rest of the screen is worth more at night than a refusal.
        typer.echo(f"SLUICE_CONTAINERS is not what the host prints ({error}); ignored", err=True)
        host = None
    sys.exit(command.show(read, as_json=as_json, watch=watch, every_seconds=every, host=host))


def _restart_postgres(
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Restart PostgreSQL while clients wait. Exit code 3: refused, nothing was done."""
    from infra.ops import restart_postgres
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    sys.exit(restart_postgres.run(read, Request(directory, wait, as_json)))


def _dead_man(settings: Settings = SETTINGS, directory: Directory = _DIRECTORY) -> None:
    """Resume every PgBouncer when the command that paused it has died."""
    from infra.ops import dead_man

    sys.exit(dead_man.watch(read_settings(settings), directory))


def _restart_pgbouncer(
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Restart every PgBouncer replica, one at a time, while the others serve."""
    from infra.ops import rolling
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    sys.exit(rolling.restart(read, Request(directory, wait, as_json)))


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
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Restart api and worker with no request failing and no task lost."""
    from infra.ops import restart_app
    from infra.ops.operation import Request

    code = restart_app.restart(
        read_settings(settings, as_json=as_json),
        Request(directory, wait, as_json),
        tuple(str(one) for one in services or list(Service)),
        new_api_container=new_api_container,
    )
    sys.exit(code)


def _retire(
    name: Annotated[str, typer.Argument(help="Container of the replica.")],
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Empty one PgBouncer replica and have the host remove it."""
    from infra.ops import rolling
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    sys.exit(rolling.retire(read, Request(directory, wait, as_json), name))


def _spread(
    replicas: Annotated[int, typer.Argument(help="How many replicas are to serve.", min=1)],
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Spread the app's connections over all PgBouncer replicas, new ones included."""
    from infra.ops import rolling
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    sys.exit(rolling.spread(read, Request(directory, wait, as_json), replicas))


def _reconnect(
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Only after DDL since the last time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replace every server connection, and with it the plans made before DDL."""
    from infra.ops import rolling
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    sys.exit(rolling.reconnect(read, Request(directory, wait, as_json), if_changed=if_changed))
