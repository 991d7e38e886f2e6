"""The commands that measure without Locust."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands; what each needs is imported when it runs."""
    app.command("load-sql")(_load_sql)
    app.command("compare-lab")(_compare_lab)
    app.command("compare-stack")(_compare_stack)
    app.command("isolation")(_isolation)
    app.command("growth")(_growth)


def counts(knob: str, text: str) -> tuple[int, ...]:
    """Return the numbers of a setting; exit code 2 where one is none, or below 1."""
    parts = re.split(r"\s*,\s*|\s+", text.strip())
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        typer.echo(
            f"{knob}={text}: must be whole numbers from 1, with commas or spaces between", err=True
        )
        sys.exit(2)
    return tuple(int(part) for part in parts)


def _load_sql(
    clients: Annotated[
        str, typer.Option(help="Client counts.", envvar="CLIENTS")
    ] = "8,64,380,1000,5000,10000",
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
    from loadtest.cli import run_directory
    from loadtest.sql.campaign import Campaign, run

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
    from loadtest.cli import run_directory
    from loadtest.incident.lab import Comparison, run

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
    from loadtest.cli import run_directory
    from loadtest.incident.stack import run

    sys.exit(run(runs, site_years, run_directory()))


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
    from loadtest.cli import run_directory
    from loadtest.isolation.campaign import Isolation, run

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
    from loadtest.cli import run_directory
    from loadtest.soak.growth import run

    sys.exit(run(run_directory(), percent_max))
