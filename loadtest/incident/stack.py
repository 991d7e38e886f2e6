"""Sluice's own way: the same site through the deployed api and its workers."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from app.client.http import Client
from app.client.sample import SITES
from loadtest.incident import metrics, results
from loadtest.incident.flight import TERMS
from loadtest.run_directory import RunDirectory
from loadtest.spread import spread

URL = "http://api:8000"
PATH = "/api/v1/site-assessments"
POLL_SECONDS = 0.02
RUN_SECONDS_MAX = 120.0
FIRST_YEAR = 2021
CALL_SECONDS = 15.0
# The most that one page may hold: a site has 2,880 rows.
ROWS_MAX = 10_000


def run(runs: int, site_years: int, directory: RunDirectory) -> int:
    """Assess the site `runs` times and compare with the lab's rows; 1 when they differ."""
    before = metrics.acquisitions()
    found = [assess(1, site_years) for _ in range(runs + 1)][1:]  # the first one warms up
    eight = [assess(len(SITES), site_years) for _ in range(max(1, runs // 4))]
    after = metrics.acquisitions()
    rows = results.from_api(_result_rows(found[-1]["assessment_id"]))
    directory.write("rows-sluice", rows)
    lab = directory.read("rows-per_operation")
    differing = results.differences(rows, lab) if lab else []
    directory.write(
        "compare-stack",
        {
            "one_site": found,
            "eight_sites": eight,
            "seconds": spread([one["seconds"] for one in found]).as_dict(),
            "caller_seconds": spread([one["caller_seconds"] for one in found]).as_dict(),
            "acquisition": metrics.percentiles(before, after),
            "digest": results.digest(rows),
            "differences": differing,
        },
    )
    for line in differing:
        sys.stderr.write(f"differs from the lab: {line}\n")
    return int(bool(differing) or any(one["failed_tasks"] for one in found + eight))


def assess(sites: int, years: int) -> dict[str, Any]:
    """Submit, wait for the end, and return the server's and the caller's times."""
    client = Client(URL, time.monotonic() + RUN_SECONDS_MAX)
    started, wall = time.time(), time.monotonic()
    assessment_id = client.submit(_body(sites, years))
    while (status := client.status(assessment_id))["finished_at"] is None:
        if time.monotonic() > wall + RUN_SECONDS_MAX:
            raise TimeoutError(f"assessment {assessment_id} did not end in {RUN_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)
    caller_seconds = time.monotonic() - wall
    seconds = _between(status["started_at"], status["finished_at"])
    sys.stderr.write(
        f"sluice, {sites} site(s): {status['done_tasks']} tasks in {seconds:.3f} s, "
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


def _body(sites: int, years: int) -> dict[str, Any]:
    return {
        "sites": [
            {"site_id": name, "latitude": latitude, "longitude": longitude}
            for name, latitude, longitude in SITES[:sites]
        ],
        "asset_value": TERMS.asset_value,
        "insurance_coverage_rate": TERMS.insurance_coverage_rate,
        "scenarios": ["SSP126", "SSP245", "SSP370", "SSP585"],
        "years": {"from": FIRST_YEAR, "to": FIRST_YEAR + years - 1},
    }


def _between(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def _result_rows(assessment_id: str) -> Iterator[dict[str, Any]]:
    url = f"{URL}{PATH}/{assessment_id}/results?limit={ROWS_MAX}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=CALL_SECONDS) as answer:
        yield from json.load(answer)["results"]
