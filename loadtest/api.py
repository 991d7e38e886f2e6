"""The deployed api: assessments, as a caller asks for them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

import urllib3

from app.client.http import PATH, Client
from app.client.sample import SITES, sample_request
from loadtest import API_URL

CALL_SECONDS = 15.0
RUN_SECONDS_MAX = 120.0
POLL_SECONDS = 0.02
SITE_YEARS = 80
# The most that one page may hold: a site has 2,880 rows.
ROWS_MAX = 10_000

# Identifier, latitude and longitude.
Site = tuple[str, float, float]
T = TypeVar("T")


def sites(count: int) -> list[Site]:
    """Return that many sites with identifiers of their own, at the places of the sample."""
    return [
        (f"{name}-{number}", latitude, longitude)
        for number in range(count)
        for name, latitude, longitude in (SITES[number % len(SITES)],)
    ]


def assessment(
    places: Iterable[Site], *, years: int = SITE_YEARS, scenarios: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a request for sites, the first `years` (1-80) and scenarios, all without any."""
    sample = sample_request()
    first = sample["years"]["from"]
    return sample | {
        "sites": [
            {"site_id": name, "latitude": latitude, "longitude": longitude}
            for name, latitude, longitude in places
        ],
        "scenarios": list(scenarios) or sample["scenarios"],
        "years": {"from": first, "to": first + years - 1},
    }


def assess(count: int, years: int = SITE_YEARS) -> dict[str, Any]:
    """Assess that many sites; return the counts of tasks, the server's and the caller's times."""
    client = Client(API_URL, time.monotonic() + RUN_SECONDS_MAX)
    started, asked = time.time(), time.monotonic()
    assessment_id = client.submit(assessment(sites(count), years=years))
    status = finished(client, assessment_id, seconds=RUN_SECONDS_MAX, every=POLL_SECONDS)
    caller_seconds = time.monotonic() - asked
    first, last = (datetime.fromisoformat(status[name]) for name in ("started_at", "finished_at"))
    seconds = (last - first).total_seconds()
    sys.stderr.write(
        f"sluice, {count} site(s): {status['done_tasks']} tasks in {seconds:.3f} s, "
        f"the caller waited {caller_seconds:.3f} s\n"
    )
    return {
        "assessment_id": assessment_id,
        "tasks": status["total_tasks"],
        "done": status["done_tasks"],
        "failed_tasks": status["failed_tasks"],
        "seconds": seconds,
        "caller_seconds": caller_seconds,
        "tasks_per_second": status["done_tasks"] / seconds,
        "started": started,
        "ended": time.time(),
    }


def finished(client: Client, assessment_id: str, *, seconds: float, every: float) -> dict[str, Any]:
    """Return the status of an assessment once it has ended."""

    def ended() -> dict[str, Any] | None:
        status = client.status(assessment_id)
        return None if status["finished_at"] is None else status

    what = f"assessment {assessment_id} ends (are the workers up?)"
    return wait_until(ended, seconds=seconds, what=what, every=every)


def status_url(assessment_id: str) -> str:
    """Return where an assessment's status is."""
    return f"{API_URL}{PATH}/{assessment_id}"


def result_rows(assessment_id: str) -> list[dict[str, Any]]:
    """Return the rows of an assessment's results."""
    rows: list[dict[str, Any]] = json.loads(
        get(f"{status_url(assessment_id)}/results?limit={ROWS_MAX}")
    )["results"]
    return rows


def get(address: str) -> bytes:
    """Return the body of an answer; raise RuntimeError where it is not 200."""
    answer = urllib3.request("GET", address, timeout=CALL_SECONDS, retries=False)
    if answer.status != 200:
        raise RuntimeError(f"{address}: {answer.status} {answer.data[:2000]!r}")
    return answer.data


def wait_until(condition: Callable[[], T | None], *, seconds: float, what: str, every: float) -> T:
    """Return the first value that is not None; raise TimeoutError after that many seconds."""
    deadline = time.monotonic() + seconds
    while (value := condition()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return value
