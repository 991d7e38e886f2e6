"""The commands that rotate secrets, and the one that writes lost ones back."""

import sys
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

Source = Annotated[
    Path | None,
    typer.Option(
        "--from", help="Directory with the secrets to use; what is not in it is made.", exists=True
    ),
]


def register(app: typer.Typer) -> None:
    """Add `rotate` and `restore` to the command line."""
    rotate = typer.Typer(help="Give the stack new secrets while it serves.")
    rotate.command("passwords")(_passwords)
    rotate.command("certificates")(_certificates)
    app.add_typer(rotate, name="rotate")
    restore = typer.Typer(help="Get back what was lost.")
    # Keeps `secrets` a command of its own though it is the only one.
    restore.callback()(_restore)
    restore.command("secrets")(_secrets)
    app.add_typer(restore, name="restore")


def _passwords(
    source: Source = None,
    wait: Wait = 0.0,
    settings: Settings = SETTINGS,
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
) -> None:
    """Rotate the password of every login role and the token of every service."""
    from infra.ops.apply import Paths
    from infra.ops.operation import Request
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
    from infra.ops.apply import Paths
    from infra.ops.operation import Request
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
    from infra.ops.apply import Paths
    from infra.ops.operation import Request

    file, request = env_file or default_env_file(), Request(out / "ops", wait, as_json)
    paths = Paths(out, secrets)
    sys.exit(restore_secrets.restore(file, settings, paths, request, host=parse(host)))
