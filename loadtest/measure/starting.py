"""How soon workers begin a submission on an idle stack, and what the stack does while idle."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import psycopg

from app.client.http import Client
from loadtest import API_URL
from loadtest.api import assessment, finished, sites
from loadtest.database import arguments
from loadtest.figures import Histogram, summary_ms
from loadtest.run_directory import RunDirectory

# Long enough that the workers' pauses between polls are the longest, and that idle sessions have
# reported their transactions (after 10 s).
SETTLE_SECONDS = 20.0
# Between the end of one assessment and the next submission, so that every thread waits again.
GAP_SECONDS = 0.1
FINISHED_SECONDS_MAX = 60.0


def run(directory: RunDirectory, *, submissions: int, idle_seconds: float) -> None:
    """Write milliseconds from `created_at` to `started_at`, and transactions a second while idle.

    Both times are the database's. The transactions are all of the server's, those of health checks
    and of this connection included.
    """
    starts = Histogram.of(_start() for _ in range(submissions))
    with psycopg.connect(**arguments("pgbouncer"), autocommit=True) as connection:
        time.sleep(SETTLE_SECONDS)
        before, began = _transactions(connection), time.monotonic()
        time.sleep(idle_seconds)
        seconds = time.monotonic() - began
        per_second = (_transactions(connection) - before) / seconds
    directory.write("idle", {"start": summary_ms(starts), "transactions_per_second": per_second})


def _start() -> float:
    """Submit one task; return the seconds that it waited."""
    client = Client(API_URL, time.monotonic() + FINISHED_SECONDS_MAX)
    assessment_id = client.submit(assessment(sites(1), years=1, scenarios=["SSP126"]))
    status = finished(client, assessment_id, seconds=FINISHED_SECONDS_MAX, every=GAP_SECONDS)
    times = (datetime.fromisoformat(status[name]) for name in ("created_at", "started_at"))
    created, started = times
    time.sleep(GAP_SECONDS)
    return (started - created).total_seconds()


def _transactions(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database"
    ).fetchone()
    return int(row[0]) if row else 0
