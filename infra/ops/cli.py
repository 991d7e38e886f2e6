"""The command line of the operator: one module per command, imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.ops import cli_live, cli_rotate
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
)

_COMPILED = Path("/etc/sluice/ops/compiled.json")


def main() -> None:
    """Run the command line under the name that it was started by: `sluice` once installed."""
    create_app()()


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
    app.command("apply")(_apply)
    app.command("preset")(_preset)
    cli_live.register(app)
    cli_rotate.register(app)
    return app


def _operate() -> None:
    """Operate the stack."""


def _plan(
    env_file: EnvFile = None,
    compiled: Annotated[
        Path,
        typer.Option(help="Record of the last compile, for differences.", envvar="SLUICE_COMPILED"),
    ] = _COMPILED,
    settings: Settings = SETTINGS,
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
    quiet: Annotated[
        bool, typer.Option(help="Print faults and warnings only; asks no process.")
    ] = False,
    full: Annotated[bool, typer.Option(help="Print every table of the budget.")] = False,
    host: HostFacts = "",
) -> None:
    """Check the env file and show what it would change. Needs no database."""
    from infra.config.host import parse
    from infra.ops import plan, plan_view

    asked = None if quiet else settings
    file = env_file or default_env_file()
    made = plan.make(file, compiled, asked, secrets, parse(host), out=out)
    sys.exit(plan_view.show(made, as_json=as_json, quiet=quiet, full=full))


def _apply(
    env_file: EnvFile = None,
    restart: Annotated[
        bool, typer.Option(help="Write also what takes a restart, and name what to restart.")
    ] = False,
    wait: Wait = 0.0,
    settings: Settings = SETTINGS,
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
) -> None:
    """Put the env file in force on the running stack, live, and read it back."""
    from infra.ops import applying
    from infra.ops.apply import Paths

    code = applying.run(
        env_file or default_env_file(),
        settings,
        Paths(out, secrets),
        as_json=as_json,
        prepare_restart=restart,
        wait_seconds=wait,
    )
    sys.exit(code)


def _preset(
    name: Annotated[str, typer.Argument(help="laptop, small, medium or large.")],
    settings: Settings = SETTINGS,
    compiled: Annotated[
        Path,
        typer.Option(help="Record of the last compile, for differences.", envvar="SLUICE_COMPILED"),
    ] = _COMPILED,
    as_json: AsJson = False,
    text: Annotated[
        bool, typer.Option("--print", help="Print the preset as stack.env would have it.")
    ] = False,
    host: HostFacts = "",
) -> None:
    """Show what a preset would change; it keeps the present API_PORT."""
    from infra.config.host import parse
    from infra.ops import preset

    code = preset.run(
        name,
        default_env_file(),
        compiled,
        settings,
        host=parse(host),
        as_json=as_json,
        print_text=text,
    )
    sys.exit(code)
