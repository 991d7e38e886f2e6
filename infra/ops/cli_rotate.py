"""The commands that rotate secrets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

_SETTINGS = Path("/etc/sluice/ops/ops.json")
_OUT = Path("/out")
_SECRETS = Path("/secrets")

Source = Annotated[
    Path | None,
    typer.Option(
        "--from", help="Directory with the secrets to use; what is not in it is made.", exists=True
    ),
]
Settings = Annotated[
    Path, typer.Option("--settings", help="Where the tiers are.", envvar="SLUICE_OPS_SETTINGS")
]
Out = Annotated[Path, typer.Option(help="Where the compiled files are.")]
Secrets = Annotated[Path, typer.Option(help="Where the secrets are.")]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for another operation.", min=0)
]


def register(app: typer.Typer) -> None:
    """Add `rotate` to the command line."""
    rotate = typer.Typer(help="Give the stack new secrets while it serves.")
    rotate.command("passwords")(_passwords)
    rotate.command("certificates")(_certificates)
    app.add_typer(rotate, name="rotate")


def _passwords(
    source: Source = None,
    wait: Wait = 0.0,
    settings: Settings = _SETTINGS,
    out: Out = _OUT,
    secrets: Secrets = _SECRETS,
) -> None:
    """Rotate the password of every login role and the token of every service."""
    from infra.ops import settings as ops_settings
    from infra.ops.apply import Paths
    from infra.ops.rotation import passwords

    read, paths = ops_settings.read(settings), Paths(out, secrets)
    sys.exit(passwords.rotate(read, paths, source, wait_seconds=wait))


def _certificates(
    source: Source = None,
    new_ca: Annotated[bool, typer.Option("--ca", help="Also replace the private CA.")] = False,
    wait: Wait = 0.0,
    settings: Settings = _SETTINGS,
    out: Out = _OUT,
    secrets: Secrets = _SECRETS,
) -> None:
    """Rotate the certificate of every server. Exit code 2: one that was given is at fault."""
    from infra.ops import settings as ops_settings
    from infra.ops.apply import Paths
    from infra.ops.rotation import certificates

    code = certificates.rotate(
        ops_settings.read(settings),
        Paths(out, secrets),
        source,
        new_ca=new_ca,
        wait_seconds=wait,
    )
    sys.exit(code)
