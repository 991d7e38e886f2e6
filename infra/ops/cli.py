"""The command line of the operator: one module per command, imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.ops import cli_operations
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

if TYPE_CHECKING:
    from infra.ops.status import sample

_COMPILED = Path("/etc/sluice/ops/compiled.json")

Compiled = Annotated[
    Path,
    typer.Option(help="Record of the last compile, for differences.", envvar="SLUICE_COMPILED"),
]
Containers = Annotated[
    str, typer.Option(help="What the host knows; make fills it.", envvar="SLUICE_CONTAINERS")
]


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
    app.command("status")(_status)
    client = typer.Typer(help="Have another application join the path.")
    client.command("new")(_client_new)
    client.command("url")(_client_url)
    client.command("files")(_client_files)
    app.add_typer(client, name="client")
    app.command("doctor")(_doctor)
    app.command("logs")(_logs)
    cli_operations.register(app)
    return app


def _operate() -> None:
    """Operate the stack."""


def _plan(
    env_file: EnvFile = None,
    compiled: Compiled = _COMPILED,
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
    """Apply the env file to the running stack, live, and read it back."""
    from infra.ops import apply
    from infra.ops.operation import Paths, Request

    file, paths = env_file or default_env_file(), Paths(out, secrets)
    request = Request(out / "ops", wait, as_json)
    sys.exit(apply.run(file, settings, paths, request, prepare_restart=restart))


def _preset(
    name: Annotated[str, typer.Argument(help="laptop, small, medium or large.")],
    settings: Settings = SETTINGS,
    compiled: Compiled = _COMPILED,
    as_json: AsJson = False,
    text: Annotated[
        bool, typer.Option("--print", help="Print the preset as stack.env would have it.")
    ] = False,
    host: HostFacts = "",
) -> None:
    """Show what a preset would change; it keeps the api's address and port."""
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


def _status(
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option(help="Refresh until interrupted, all but what the host knows.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    containers: Containers = "",
    settings: Settings = SETTINGS,
) -> None:
    """Show the whole path, and its current bottleneck. Exit code 1: a process does not answer."""
    from infra.ops.running import read_record
    from infra.ops.status import view

    read, host = read_settings(settings, as_json=as_json), _host_facts(containers)
    recorded = read_record(_COMPILED)
    sys.exit(
        view.show(read, recorded, as_json=as_json, watch=watch, every_seconds=every, host=host)
    )


def _doctor(
    sql: Annotated[
        Path | None,
        typer.Option(help="Judge this SQL script or Python source, or those of a directory."),
    ] = None,
    containers: Containers = "",
    compiled: Compiled = _COMPILED,
    settings: Settings = SETTINGS,
    as_json: AsJson = False,
) -> None:
    """Find what breaks behind transaction pooling, in files or in the running path.

    Exit code 1: a finding above a note.
    """
    # The parser is a large library: no other command loads it.
    from infra.ops.doctor import live, sources, view
    from infra.ops.running import read_record

    if sql:
        sys.exit(view.show(lambda: sources.examine(sql), as_json=as_json))
    read, host = read_settings(settings, as_json=as_json), _host_facts(containers)
    recorded = read_record(compiled)
    code = view.show(lambda: live.examine(read, host=host, recorded=recorded), as_json=as_json)
    sys.exit(code)


def _logs(
    request: Annotated[
        str | None, typer.Option(help="Only the lines of this request, in the order of time.")
    ] = None,
    colour: Annotated[bool, typer.Option("--colour", help="For a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print what `docker compose logs --timestamps` gives it in one form; make logs does.

    Exit code 1: no line has the request's id.
    """
    from infra.ops import logs

    sys.exit(logs.run(sys.stdin, request, colour=colour, as_json=as_json))


def _host_facts(containers: str) -> sample.HostFacts | None:
    from infra.ops.status import collect

    try:
        return collect.host_facts(containers)
    except ValueError as error:
        # The rest of the screen is worth more at night than a refusal.
        typer.echo(f"SLUICE_CONTAINERS is not what the host prints ({error}); ignored", err=True)
        return None


_ClientName = Annotated[str, typer.Argument(help="Name of the client: that of its file.")]


def _client_new(name: _ClientName, as_json: AsJson = False) -> None:
    """Print the file of a new client; make client writes it."""
    from infra.ops import join

    sys.exit(join.template(name, as_json=as_json))


def _client_url(
    name: _ClientName,
    project: Annotated[str, typer.Option(help="Name of the Compose project.")] = "sluice",
    out: Out = OUT,
    secrets: Secrets = SECRETS,
    as_json: AsJson = False,
) -> None:
    """Print how an application connects; its secrets: make client-url TO=DIRECTORY."""
    from infra.ops import join
    from infra.ops.operation import Paths

    sys.exit(join.show(name, Paths(out, secrets), project, as_json=as_json))


def _client_files(
    name: _ClientName, out: Out = OUT, secrets: Secrets = SECRETS, as_json: AsJson = False
) -> None:
    """Write the secrets of an application to standard output, as a tar archive or as JSON."""
    from infra.ops import join
    from infra.ops.operation import Paths

    sys.exit(join.files(name, Paths(out, secrets), as_json=as_json))
