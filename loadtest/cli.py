"""The command line inside the load containers; every option has a name in the environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.traffic.options import DEFAULT_MIX, TrafficOptions, parse_mix
from loadtest.traffic.verdict import Thresholds, faults

Users = Annotated[int, typer.Option(help="Users at the same time.", envvar="USERS")]
Mix = Annotated[str, typer.Option(help="Proportions of requests.", envvar="MIX")]
Pause = Annotated[float, typer.Option(help="Mean pause of a user, ms.", envvar="PAUSE_MS")]
TasksEach = Annotated[int, typer.Option(help="Tasks of a submission.", envvar="TASKS_EACH")]
Requests = Annotated[int, typer.Option(help="End after so many.", envvar="MAX_REQUESTS")]
Errors = Annotated[float, typer.Option(help="Threshold, %.", envvar="MAX_ERROR_PERCENT")]
P95 = Annotated[float, typer.Option(help="Threshold, ms.", envvar="MAX_P95_MS")]


def create_app() -> typer.Typer:
    """Return the command line with every command registered."""
    app = typer.Typer(
        help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.command("load")(_load)
    app.command("soak")(_soak)
    app.command("report")(_report)
    app.command("index")(_index)
    app.command("document")(_document)
    from loadtest import measuring, tuning

    measuring.register(app)
    tuning.register(app)
    return app


def run_directory() -> RunDirectory:
    """Return the run's directory, or end the process with exit code 2."""
    try:
        return RunDirectory.from_environment()
    except RunDirectoryError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


def _load(
    users: Users = 20,
    shape: Annotated[str, typer.Option(help="steady ramp spike soak", envvar="SHAPE")] = "steady",
    seconds: Annotated[float, typer.Option(help="Length.", envvar="RUN_SECONDS")] = 30.0,
    mix: Mix = DEFAULT_MIX,
    pause_ms: Pause = 100.0,
    tasks_each: TasksEach = 10,
    requests_max: Requests = 1_000_000,
    max_error_percent: Errors = 0.0,
    max_p95_ms: P95 = 1000.0,
    web: Annotated[bool, typer.Option("--web", help="Locust's page, not a shape.")] = False,
) -> None:
    """Load the api; exit code 1 when a threshold is passed."""
    options = _options(
        users=users,
        shape=shape,
        seconds=seconds,
        mix=mix,
        pause_ms=pause_ms,
        tasks_each=tasks_each,
        requests_max=requests_max,
    )
    sys.exit(_traffic("load", options, Thresholds(max_error_percent, max_p95_ms), web=web))


def _soak(
    minutes: Annotated[float, typer.Option(help="Length.", envvar="MINUTES")] = 10.0,
    users: Users = 10,
    mix: Mix = DEFAULT_MIX,
    pause_ms: Pause = 200.0,
    tasks_each: TasksEach = 10,
    requests_max: Requests = 10_000_000,
    max_error_percent: Errors = 0.0,
    max_p95_ms: P95 = 1000.0,
) -> None:
    """Load the api evenly for long; exit code 1 when a threshold is passed."""
    options = _options(
        users=users,
        shape="soak",
        seconds=minutes * 60,
        mix=mix,
        pause_ms=pause_ms,
        tasks_each=tasks_each,
        requests_max=requests_max,
    )
    sys.exit(_traffic("soak", options, Thresholds(max_error_percent, max_p95_ms)))


def _options(*, mix: str, **values: object) -> TrafficOptions:
    try:
        return TrafficOptions(mix=parse_mix(mix), **values)  # type: ignore[arg-type]
    except ValueError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


def _traffic(
    name: str, options: TrafficOptions, thresholds: Thresholds, *, web: bool = False
) -> int:
    directory = run_directory()
    # Imported here: it patches sockets and threads of the whole process.
    from loadtest.traffic.engine import run_headless, run_web

    result = run_web(options) if web else run_headless(options)
    found = faults(result["all"], thresholds)
    settings = {"options": options.as_dict(), "thresholds": thresholds.as_dict()}
    directory.write(name, settings | result | {"faults": found})
    for fault in found:
        typer.echo(f"threshold: {fault}", err=True)
    return int(bool(found))


def _report() -> None:
    """Write the page about the run in RUN_DIR, and the list of all runs."""
    from loadtest.report import index, page

    directory = run_directory()
    page.write(directory)
    index.write(directory.path.parent)


def _index() -> None:
    """Write the list of the runs below RUN_DIR."""
    from loadtest.report import index

    index.write(run_directory().path)


def _document(
    results: Annotated[Path | None, typer.Option(help="Directory of runs.")] = None,
) -> None:
    """Print docs/results.md, made from the latest run of each command."""
    from loadtest.report import document

    typer.echo(document.render(results or run_directory().path), nl=False)
