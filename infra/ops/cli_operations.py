"""The commands that restart tiers, change PgBouncer, rotate secrets and get them back."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infra.ops.cli_options import (
    OUT,
    SECRETS,
    SETTINGS,
    AsJson,
    EnvFile,
    HostFacts,
    Out,
    Secrets,
    Settings,
    Wait,
    default_env_file,
    read_settings,
)

_DIRECTORY = Path("/out/ops")

Directory = Annotated[
    Path, typer.Option("--directory", help="Where the locks are.", envvar="SLUICE_OPS_DIRECTORY")
]
Source = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Directory with the secrets to use; what is not in it is made.",
        exists=True,
        file_okay=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add `restart`, `pgbouncer`, `rotate`, `restore` and the dead-man to the command line."""
    app.command("dead-man", hidden=True)(_dead_man)
    app.command("switchover")(_switchover)
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
    rotate = typer.Typer(help="Give the stack new secrets while it serves.")
    rotate.command("passwords")(_passwords)
    rotate.command("certificates")(_certificates)
    app.add_typer(rotate, name="rotate")
    restore = typer.Typer(help="Get back what was lost.")
    # Keeps `secrets` a command of its own though it is the only one.
    restore.callback()(_restore)
    restore.command("secrets")(_secrets)
    app.add_typer(restore, name="restore")


def _restart_postgres(
    serving: Annotated[
        int | None,
        typer.Option(
            "--serving", help="PgBouncer replicas that serve now, if not as compiled.", min=1
        ),
    ] = None,
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Restart PostgreSQL while clients wait. Exit code 3: refused, nothing was done."""
    from infra.ops import restart, switchover
    from infra.ops.clients import patroni
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    if serving is not None:
        read = read.serving(serving)
    work = switchover.restart_postgres if patroni.is_replicated(read) else restart.postgres
    sys.exit(work(read, Request(directory, wait, as_json)))


def _switchover(
    candidate: Annotated[str, typer.Option("--to", help="The standby; any if not given.")] = "",
    settings: Settings = SETTINGS,
    directory: Directory = _DIRECTORY,
    wait: Wait = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a standby the primary while clients wait. Exit code 3: refused, nothing was done."""
    from infra.ops import switchover
    from infra.ops.operation import Request

    read = read_settings(settings, as_json=as_json)
    sys.exit(switchover.run(read, Request(directory, wait, as_json), candidate))


def _dead_man(settings: Settings = SETTINGS, directory: Directory = _DIRECTORY) -> None:
    """Resume every PgBouncer when the command that paused it has died."""
    from infra.ops import pause

    sys.exit(pause.watch(read_settings(settings), directory))


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
    from infra.ops import restart
    from infra.ops.operation import Request

    code = restart.app(
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


def _passwords(
    source: Source = None,
    wait: Wait = 0.0,
    settings: Settings = SETTINGS,
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
) -> None:
    """Rotate the password of every login role and the token of every service."""
    from infra.ops.operation import Paths, Request
    from infra.ops.rotation import passwords

    read, paths = read_settings(settings, as_json=as_json), Paths(out, secrets)
    sys.exit(passwords.rotate(read, paths, source, Request(out / "ops", wait, as_json)))


def _certificates(
    source: Source = None,
    new_ca: Annotated[bool, typer.Option("--ca", help="Also replace the private CA.")] = False,
    due: Annotated[
        bool, typer.Option("--due", help="Only if a generated one is due; for a timer.")
    ] = False,
    env_file: EnvFile = None,
    wait: Wait = 0.0,
    settings: Settings = SETTINGS,
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
) -> None:
    """Rotate the certificate of every server. Exit code 2: one that was given is at fault."""
    from infra.ops.operation import Paths, Request
    from infra.ops.rotation import certificates

    paths, file = Paths(out, secrets), env_file or default_env_file()
    # The way out of an expired certificate, which keeps `config` from writing ops.json.
    read = read_settings(settings, as_json=as_json, otherwise=file)
    request = Request(out / "ops", wait, as_json)
    code = certificates.rotate(read, paths, source, request, new_ca=new_ca, due=due, env_file=file)
    sys.exit(code)


def _restore() -> None:
    """Get back what was lost."""


def _secrets(
    env_file: EnvFile = None,
    wait: Wait = 0.0,
    settings: Settings = SETTINGS,
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
    host: HostFacts = "",
) -> None:
    """Write the secrets of a lost volume back from the compiled files; make what is in none."""
    from infra.config.host import parse
    from infra.ops import restore_secrets
    from infra.ops.operation import Paths, Request

    file, request = env_file or default_env_file(), Request(out / "ops", wait, as_json)
    paths = Paths(out, secrets)
    sys.exit(restore_secrets.restore(file, settings, paths, request, host=parse(host)))
