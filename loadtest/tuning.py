"""The commands that host/tune.sh calls in turn."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from loadtest.tune.journal import TuneOptions

Began = Annotated[float, typer.Argument(help="Unix time before the point was applied.")]
DEFAULT = TuneOptions()


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tune-begin")(_begin)
    app.command("tune-next")(_next)
    app.command("tune-measure")(_measure)
    app.command("tune-skip")(_skip)
    app.command("tune-finish")(_finish)


def _begin(
    minutes: Annotated[
        float, typer.Option(help="The most it may take.", envvar="MINUTES")
    ] = DEFAULT.minutes,
    repeats: Annotated[int, typer.Option(help="Of each point.", envvar="REPEATS")] = 3,
    users: Annotated[int, typer.Option(help="Without thought.", envvar="USERS")] = DEFAULT.users,
    point_seconds: Annotated[
        float, typer.Option(help="Measured per point.", envvar="POINT_SECONDS")
    ] = DEFAULT.point_seconds,
    mix: Annotated[str, typer.Option(help="Of the requests.", envvar="MIX")] = DEFAULT.mix,
    tasks_each: Annotated[
        int, typer.Option(help="Tasks of a submission.", envvar="TASKS_EACH")
    ] = DEFAULT.tasks_each,
) -> None:
    """Start a run's journal, unless it has one to go on with."""
    from loadtest.cli import run_directory
    from loadtest.tune import steps

    options = TuneOptions(
        minutes=minutes,
        repeats=repeats,
        users=users,
        point_seconds=point_seconds,
        mix=mix,
        tasks_each=tasks_each,
    )
    steps.begin(run_directory(), options)


def _next() -> None:
    """Print the next point, or `done`."""
    from loadtest.cli import run_directory
    from loadtest.tune import steps

    steps.announce(run_directory())


def _measure(began: Began) -> None:
    """Measure what is in force, then print the next point."""
    from loadtest.cli import run_directory
    from loadtest.tune import steps

    steps.take(run_directory(), began)
    steps.announce(run_directory())


def _skip(reason: str, began: Began) -> None:
    """Leave the point out, then print the next one."""
    from loadtest.cli import run_directory
    from loadtest.tune import steps

    steps.skip(run_directory(), reason, began)
    steps.announce(run_directory())


def _finish() -> None:
    """Write the recommendation; exit code 1 when a request failed."""
    from loadtest.cli import run_directory
    from loadtest.tune import steps

    sys.exit(steps.finish(run_directory()))
