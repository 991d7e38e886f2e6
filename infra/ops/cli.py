"""The command line of the operator: one module per command, imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_MOUNTED_ENV_FILE = Path("/etc/sluice/env/stack.env")
_REPOSITORY_ENV_FILE = Path(__file__).resolve().parents[1] / "env" / "stack.env"
_COMPILED = Path("/etc/sluice/ops/compiled.json")
_SETTINGS = Path("/etc/sluice/ops/ops.json")


def create_app() -> typer.Typer:
    """Return the command line with every command registered."""
    app = typer.Typer(
        help="Operate the stack.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    # Keeps `plan` a command of its own also while it is the only one.
    app.callback()(_operate)
    app.command("plan")(_plan)
    app.command("load-reference")(_load_reference)
    return app


def _operate() -> None:
    """Operate the stack."""


def _plan(
    env_file: Annotated[
        Path | None,
        typer.Option(help="Env file to check; stack.env when not given.", envvar="SLUICE_ENV_FILE"),
    ] = None,
    compiled: Annotated[
        Path,
        typer.Option(help="Record of the last compile, for differences.", envvar="SLUICE_COMPILED"),
    ] = _COMPILED,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the env file and show what it comes to. Needs no database."""
    from infra.ops import plan

    made = plan.make(env_file or _default_env_file(), compiled)
    sys.exit(plan.show(made, as_json=as_json))


def _load_reference(
    table: Annotated[str, typer.Argument(help="Table of the schema reference.")],
    csv: Annotated[Path, typer.Argument(help="CSV file with a header line.", exists=True)],
    replace: Annotated[
        bool, typer.Option(help="Also remove rows whose key is not in the file.")
    ] = False,
    settings: Annotated[
        Path, typer.Option(help="Where the tiers are.", envvar="SLUICE_OPS_SETTINGS")
    ] = _SETTINGS,
) -> None:
    """Load the rows of a CSV file into one table of reference data: all or none."""
    from infra.ops import settings as ops_settings
    from infra.ops.load_reference import load_reference

    try:
        conninfo = ops_settings.read(settings).conninfo("owner", application_name="sluice-load")
    except OSError as error:
        typer.echo(f"{error.filename}: {error.strerror}; the config service writes it", err=True)
        sys.exit(1)
    console = Console()
    sys.exit(load_reference(table, csv, conninfo=conninfo, console=console, replace=replace))


def _default_env_file() -> Path:
    return _MOUNTED_ENV_FILE if _MOUNTED_ENV_FILE.exists() else _REPOSITORY_ENV_FILE
