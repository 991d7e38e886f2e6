"""The command line inside the load containers; every option has a name in the environment."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from loadtest.measure.traffic import DEFAULT_MIX, Thresholds, TrafficOptions, faults, parse_mix
from loadtest.run_directory import RunDirectory, RunDirectoryError
from loadtest.tune.journal import TuneOptions

Users = Annotated[int, typer.Option(help="Users at the same time.", envvar="USERS")]
Mix = Annotated[str, typer.Option(help="Proportions of requests.", envvar="MIX")]
Pause = Annotated[float, typer.Option(help="Mean pause of a user, ms.", envvar="PAUSE_MS")]
TasksEach = Annotated[int, typer.Option(help="Tasks of a submission.", envvar="TASKS_EACH")]
Requests = Annotated[int, typer.Option(help="End after so many.", envvar="MAX_REQUESTS")]
Errors = Annotated[float, typer.Option(help="Threshold, %.", envvar="MAX_ERROR_PERCENT")]
P95 = Annotated[float, typer.Option(help="Threshold, ms.", envvar="MAX_P95_MS")]
Began = Annotated[float, typer.Argument(help="Unix time before the point was applied.")]
TUNE = TuneOptions()
CLIENTS = "8,64,380,1000,5000,10000"


def create_app() -> typer.Typer:
    """Return the command line with every command registered."""
    app = typer.Typer(
        help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    commands: dict[str, Callable[..., None]] = {
        "load": _load,
        "soak": _soak,
        "growth": _growth,
        "load-sql": _load_sql,
        "compare-lab": _compare_lab,
        "compare-stack": _compare_stack,
        "idle": _idle,
        "isolation": _isolation,
        "tune-begin": _tune_begin,
        "tune-next": _tune_next,
        "tune-measure": _tune_measure,
        "tune-skip": _tune_skip,
        "tune-finish": _tune_finish,
        "report": _report,
        "index": _index,
        "document": _document,
    }
    for name, command in commands.items():
        app.command(name)(command)
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
    from loadtest.measure.engine import run_headless, run_web

    result = run_web(options) if web else run_headless(options)
    found = faults(result["all"], thresholds)
    settings = {"options": options.as_dict(), "thresholds": thresholds.as_dict()}
    directory.write(name, settings | result | {"faults": found})
    for fault in found:
        typer.echo(f"threshold: {fault}", err=True)
    return int(bool(found))


def counts(setting: str, text: str) -> tuple[int, ...]:
    """Return the numbers of a setting; exit code 2 where one is none, or below 1."""
    parts = re.split(r"\s*,\s*|\s+", text.strip())
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        typer.echo(
            f"{setting}={text}: must be whole numbers from 1, with commas or spaces between",
            err=True,
        )
        sys.exit(2)
    return tuple(int(part) for part in parts)


def _load_sql(
    clients: Annotated[str, typer.Option(help="Client counts.", envvar="CLIENTS")] = CLIENTS,
    direct_max: Annotated[
        int, typer.Option(help="Most direct connections.", envvar="DIRECT_CLIENTS_MAX")
    ] = 1000,
    seconds: Annotated[
        int, typer.Option(help="Measured per run, after the logins.", envvar="CASE_SECONDS")
    ] = 10,
    repeats: Annotated[int, typer.Option(help="Runs of each case.", envvar="REPEATS")] = 3,
    scale: Annotated[int, typer.Option(help="pgbench's scale.", envvar="SCALE")] = 20,
    login_ms: Annotated[
        float, typer.Option(help="Expected time of one login.", envvar="LOGIN_MS")
    ] = 9.0,
    only: Annotated[str, typer.Option(help="Part of a case's kind.", envvar="ONLY")] = "",
) -> None:
    """Run pgbench in the lab, through PgBouncer and direct; exit code 1 when a run failed."""
    from loadtest.measure.pgbench import Campaign, run

    campaign = Campaign(
        clients=counts("CLIENTS", clients),
        direct_max=direct_max,
        seconds=seconds,
        repeats=repeats,
        scale=scale,
        login_ms=login_ms,
        only=only,
    )
    sys.exit(run(campaign, run_directory()))


def _compare_lab(
    site_years: Annotated[
        int, typer.Option(help="Years of the site, 1-80.", envvar="SITE_YEARS", min=1, max=80)
    ] = 80,
    failure_seconds: Annotated[
        float, typer.Option(help="How long the incident may fail.", envvar="FAILURE_SECONDS")
    ] = 60.0,
    process_counts: Annotated[
        str, typer.Option(help="Application processes at once.", envvar="PROCESSES")
    ] = "1,4,16",
    process_seconds: Annotated[
        float, typer.Option(help="Of each such run.", envvar="PROCESS_SECONDS")
    ] = 10.0,
) -> None:
    """Run the incident and its fix in the lab; exit code 1 when their results differ."""
    from loadtest.compare.lab import Comparison, run

    comparison = Comparison(
        site_years=site_years,
        failure_seconds=failure_seconds,
        process_counts=counts("PROCESSES", process_counts),
        process_seconds=process_seconds,
    )
    sys.exit(run(comparison, run_directory()))


def _compare_stack(
    runs: Annotated[int, typer.Option(help="Assessments of one site.", envvar="RUNS")] = 12,
    site_years: Annotated[
        int, typer.Option(help="Years of the site.", envvar="SITE_YEARS", min=1, max=80)
    ] = 80,
) -> None:
    """Run the same site through the deployed stack; exit code 1 when the results differ."""
    from loadtest.compare.stack import run

    sys.exit(run(runs, site_years, run_directory()))


def _idle(
    submissions: Annotated[
        int, typer.Option(help="One by one.", envvar="SUBMISSIONS", min=1)
    ] = 100,
    idle_seconds: Annotated[
        float, typer.Option(help="Without any request.", envvar="IDLE_SECONDS")
    ] = 60.0,
) -> None:
    """Start of submissions on an idle stack, and its transactions; judged on the page only."""
    from loadtest.measure.isolation import idle

    idle(run_directory(), submissions=submissions, idle_seconds=idle_seconds)


def _isolation(
    phase_seconds: Annotated[
        float, typer.Option(help="Of each phase.", envvar="PHASE_SECONDS")
    ] = 8.0,
    repeats: Annotated[int, typer.Option(help="Of every phase.", envvar="REPEATS")] = 3,
    rate: Annotated[float, typer.Option(help="Requests per second.", envvar="RATE")] = 40.0,
    batch_clients: Annotated[
        int, typer.Option(help="Clients that fill the batch pool.", envvar="BATCH_CLIENTS")
    ] = 48,
    ratio_max: Annotated[
        float, typer.Option(help="Threshold of the p99's ratio.", envvar="MAX_RATIO")
    ] = 2.0,
) -> None:
    """Latency of requests while the batch pool is full; exit code 1 above the ratio."""
    from loadtest.measure.isolation import Isolation, run

    options = Isolation(
        phase_seconds=phase_seconds,
        repeats=repeats,
        rate=rate,
        batch_clients=batch_clients,
        ratio_max=ratio_max,
    )
    sys.exit(run(options, run_directory()))


def _growth(
    percent_max: Annotated[
        float, typer.Option(help="Threshold, %.", envvar="MAX_GROWTH_PERCENT")
    ] = 10.0,
) -> None:
    """Judge the samples of a soak; exit code 1 when something grew."""
    from loadtest.measure.growth import run

    sys.exit(run(run_directory(), percent_max))


def _tune_begin(
    minutes: Annotated[
        float, typer.Option(help="The most it may take.", envvar="MINUTES")
    ] = TUNE.minutes,
    repeats: Annotated[int, typer.Option(help="Of each point.", envvar="REPEATS")] = 3,
    users: Annotated[int, typer.Option(help="Without thought.", envvar="USERS")] = TUNE.users,
    point_seconds: Annotated[
        float, typer.Option(help="Measured per point.", envvar="POINT_SECONDS")
    ] = TUNE.point_seconds,
    mix: Annotated[str, typer.Option(help="Of the requests.", envvar="MIX")] = TUNE.mix,
    tasks_each: Annotated[
        int, typer.Option(help="Tasks of a submission.", envvar="TASKS_EACH")
    ] = TUNE.tasks_each,
) -> None:
    """Start a run's journal, unless it has one to go on with."""
    from loadtest.tune import steps

    options = TuneOptions(
        minutes=minutes,
        repeats=repeats,
        users=users,
        point_seconds=point_seconds,
        mix=mix,
        tasks_each=tasks_each,
    )
    # Each point is such a run: refused before the first one is applied.
    _options(users=users, mix=mix, seconds=point_seconds, tasks_each=tasks_each)
    steps.begin(run_directory(), options)


def _tune_next() -> None:
    """Print the next point, or `done`."""
    from loadtest.tune import steps

    steps.show_next(run_directory())


def _tune_measure(began: Began) -> None:
    """Measure the running configuration, then print the next point."""
    from loadtest.tune import steps

    steps.measure(run_directory(), began)
    steps.show_next(run_directory())


def _tune_skip(reason: str, began: Began) -> None:
    """Leave the point out, then print the next one."""
    from loadtest.tune import steps

    steps.skip(run_directory(), reason, began)
    steps.show_next(run_directory())


def _tune_finish() -> None:
    """Write the recommendation; exit code 1 when a request failed."""
    from loadtest.tune import steps

    sys.exit(steps.finish(run_directory()))


def _report() -> None:
    """Write the page about the run in RUN_DIR, and the list of all runs."""
    from loadtest.report import pages

    directory = run_directory()
    pages.write(directory)
    pages.write_index(directory.path.parent)


def _index() -> None:
    """Write the list of the runs below RUN_DIR."""
    from loadtest.report import pages

    pages.write_index(run_directory().path)


def _document(
    results: Annotated[Path | None, typer.Option(help="Directory of runs.")] = None,
) -> None:
    """Print docs/results.md, made from the latest run of each command."""
    from loadtest.report import pages

    typer.echo(pages.document(results or run_directory().path), nl=False)
