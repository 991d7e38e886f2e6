"""Sluice's own way: the same site through the deployed api and its workers."""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter

from app.client.sample import SITES
from loadtest.api import assess, get, result_rows
from loadtest.compare.pattern import differences, digest, rows_from_api
from loadtest.figures import spread
from loadtest.run_directory import RunDirectory

WORKER_HOST = "worker"
WORKER_PORT = 8001
_BUCKET = re.compile(r'^dbpool_acquire_seconds_bucket\{.*le="([^"]+)".*\} ([\d.e+]+)')

# Cumulative counts by upper bound in seconds.
Buckets = Counter[float]


def run(runs: int, site_years: int, directory: RunDirectory) -> int:
    """Assess the site `runs` times and compare with the lab's rows; 1 when they differ."""
    before = _acquisitions()
    found = [assess(1, site_years) for _ in range(runs + 1)][1:]  # the first one warms up
    eight = [assess(len(SITES), site_years) for _ in range(max(1, runs // 4))]
    after = _acquisitions()
    rows = rows_from_api(result_rows(found[-1]["assessment_id"]))
    directory.write("rows-sluice", rows)
    lab = directory.read("rows-per_operation")
    differing = differences(rows, lab) if lab else []
    directory.write(
        "compare-stack",
        {
            "one_site": found,
            "eight_sites": eight,
            "seconds": spread([one["seconds"] for one in found]).as_dict(),
            "caller_seconds": spread([one["caller_seconds"] for one in found]).as_dict(),
            "acquisition": acquisition_percentiles(before, after),
            "digest": digest(rows),
            "differences": differing,
        },
    )
    for line in differing:
        sys.stderr.write(f"differs from the lab: {line}\n")
    return int(bool(differing) or any(one["failed_tasks"] for one in found + eight))


def _acquisitions() -> Buckets:
    """Return cumulative counts by upper bound in seconds, summed over all workers."""
    total: Buckets = Counter()
    addresses = {
        info[4][0] for info in socket.getaddrinfo(WORKER_HOST, WORKER_PORT, socket.AF_INET)
    }
    for address in addresses:
        total.update(parse_acquisitions(get(f"http://{address}:{WORKER_PORT}/metrics").decode()))
    return total


def parse_acquisitions(text: str) -> Buckets:
    """Return the buckets of one process's metrics."""
    found: Buckets = Counter()
    for line in text.splitlines():
        match = _BUCKET.match(line)
        if match:
            found[float(match[1])] += round(float(match[2]))
    return found


def acquisition_percentiles(before: Buckets, after: Buckets) -> dict[str, float | None]:
    """Return the percentiles of what came between, each as its bucket's upper bound, in ms."""
    counts = {bound: after[bound] - before[bound] for bound in sorted(after)}
    total = counts.get(float("inf"), 0)
    found: dict[str, float | None] = {"count": total}
    for percent in (50, 95, 99):
        wanted = total * percent / 100
        bound = next((one for one, seen in counts.items() if total and seen >= wanted), None)
        found[f"p{percent}_ms"] = None if bound in (None, float("inf")) else bound * 1000
    return found
