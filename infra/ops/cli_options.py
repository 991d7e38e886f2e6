"""What the commands' options have in common, and the settings that most of them begin with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.ops.clients.processes import OpsSettings

SETTINGS = Path("/etc/sluice/ops/ops.json")
OUT = Path("/out")
SECRETS = Path("/secrets")
_MOUNTED_ENV_FILE = Path("/etc/sluice/env/stack.env")
_REPOSITORY_ENV_FILE = Path(__file__).resolve().parents[1] / "env" / "stack.env"

EnvFile = Annotated[
    Path | None,
    # Judged with its content, where what is wrong is named as everything else is.
    typer.Option(
        help="Env file to take; stack.env when not given.",
        envvar="SLUICE_ENV_FILE",
        readable=False,
    ),
]
HostFacts = Annotated[
    str,
    typer.Option("--host", help="What the host can carry; make fills it.", envvar="SLUICE_HOST"),
]
Settings = Annotated[
    Path, typer.Option("--settings", help="Where the tiers are.", envvar="SLUICE_OPS_SETTINGS")
]
Out = Annotated[Path, typer.Option(help="Where the compiled files are.")]
Secrets = Annotated[Path, typer.Option(help="Where the secrets are.")]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for another operation to end.", min=0)
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object; progress goes to standard error."),
]


def default_env_file() -> Path:
    """Return the env file that is mounted; the repository's where none is."""
    # The image holds a copy of the repository's file: where one is mounted, it never stands in.
    mounted = _MOUNTED_ENV_FILE.parent.is_dir()
    return _MOUNTED_ENV_FILE if mounted else _REPOSITORY_ENV_FILE


def read_settings(
    path: Path, *, as_json: bool = False, otherwise: Path | None = None
) -> OpsSettings:
    """Read ops.json; where it cannot be used, say so as the command was asked to, and exit.

    `otherwise` is an env file that stands in where ops.json is lost.
    """
    from infra.config import build, documents
    from infra.ops.clients.processes import OpsSettings, OtherVersionError
    from infra.ops.outcome import Exit, Outcome, report

    try:
        if otherwise is not None and not path.exists():
            checked = build.check(otherwise)
            if checked.faults:
                faults = [str(fault) for fault in checked.faults]
                sys.exit(report(Outcome(Exit.BAD_INPUT, faults), as_json=as_json))
            return OpsSettings(documents.ops(checked.values))
        return OpsSettings.read(path)
    except OSError as error:
        fault = f"{error.filename}: {error.strerror}; the config service writes it"
    except OtherVersionError as error:
        sys.exit(report(Outcome(Exit.REFUSED, [f"refused: {error}"]), as_json=as_json))
    except ValueError as error:
        fault = f"{path}: is not JSON: {error}; the config service writes it"
    sys.exit(report(Outcome(Exit.FAILED, [fault]), as_json=as_json))
