"""How long the workers' own pools took, from the histograms on their status ports."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections import Counter

HOST = "worker"
PORT = 8001
CALL_SECONDS = 5.0
_BUCKET = re.compile(r'^dbpool_acquire_seconds_bucket\{.*le="([^"]+)".*\} ([\d.e+]+)')

Buckets = Counter[float]


def acquisitions() -> Buckets:
    """Return cumulative counts by upper bound in seconds, summed over all workers."""
    total: Buckets = Counter()
    addresses = {info[4][0] for info in socket.getaddrinfo(HOST, PORT, socket.AF_INET)}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for address in addresses:
        with opener.open(f"http://{address}:{PORT}/metrics", timeout=CALL_SECONDS) as answer:
            total.update(parse(answer.read().decode()))
    return total


def parse(text: str) -> Buckets:
    """Return the buckets of one process's metrics."""
    found: Buckets = Counter()
    for line in text.splitlines():
        match = _BUCKET.match(line)
        if match:
            found[float(match[1])] += round(float(match[2]))
    return found


def percentiles(before: Buckets, after: Buckets) -> dict[str, float | None]:
    """Return the percentiles of what came between, each as its bucket's upper bound, in ms."""
    counts = {bound: after[bound] - before[bound] for bound in sorted(after)}
    total = counts.get(float("inf"), 0)
    found: dict[str, float | None] = {"count": total}
    for percent in (50, 95, 99):
        wanted = total * percent / 100
        bound = next((one for one, seen in counts.items() if total and seen >= wanted), None)
        found[f"p{percent}_ms"] = None if bound in (None, float("inf")) else bound * 1000
    return found
