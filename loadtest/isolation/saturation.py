"""Two ways to keep the batch pool full: its server connections, or the workers themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from app.client.http import Client
from app.client.sample import SITES
from loadtest.incident.ways import arguments

API = "http://api:8000"
# Long enough that every slot is always taken, short enough that none outlives a phase.
HOLD_SECONDS = 0.05
WORK_SITES = 40
DRAIN_SECONDS_MAX = 180.0


@contextmanager
def nothing() -> Iterator[None]:
    """Leave the batch pool alone."""
    yield


@contextmanager
def server_connections(clients: int) -> Iterator[None]:
    """Hold every server connection of risk_batch with `clients` clients that do nothing in it.

    The pool is full and the processors are idle: what is seen is the queue alone.
    """
    stop = threading.Event()
    connections = [psycopg.connect(**arguments("pgbouncer")) for _ in range(clients)]
    threads = [threading.Thread(target=_hold, args=(one, stop)) for one in connections]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


@contextmanager
def working() -> Iterator[None]:
    """Keep every worker thread busy with a large assessment; leave when it has ended."""
    client = Client(API, time.monotonic() + DRAIN_SECONDS_MAX)
    assessment_id = client.submit(assessment(WORK_SITES))
    while client.status(assessment_id)["status"] == "queued":
        time.sleep(0.05)
    try:
        yield
    finally:
        _drain(client, assessment_id)


def assessment(sites: int, years: int = 80) -> dict[str, Any]:
    """Return a request for `sites` sites around the sample's."""
    return {
        "sites": [
            {
                "site_id": f"{SITES[number % len(SITES)][0]}-{number}",
                "latitude": SITES[number % len(SITES)][1],
                "longitude": SITES[number % len(SITES)][2],
            }
            for number in range(sites)
        ],
        "asset_value": 1e9,
        "insurance_coverage_rate": 0.3,
        "scenarios": ["SSP126", "SSP245", "SSP370", "SSP585"],
        "years": {"from": 2021, "to": 2020 + years},
    }


def _hold(connection: psycopg.Connection[Any], stop: threading.Event) -> None:
    while not stop.is_set():
        connection.execute("SELECT pg_sleep(%s)", (HOLD_SECONDS,))


def _drain(client: Client, assessment_id: str) -> None:
    until = time.monotonic() + DRAIN_SECONDS_MAX
    while client.status(assessment_id)["finished_at"] is None:
        if time.monotonic() > until:
            raise TimeoutError(f"assessment {assessment_id} did not end; are the workers up?")
        time.sleep(0.5)
