"""Requests at a fixed rate, each timed from the moment it was due.

A closed loop would send less just when the service is slow, and so not see it (coordinated
omission; G. Tene, "How NOT to Measure Latency").
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import urllib3

from loadtest.histogram import Histogram

THREADS = 32
PATIENCE_SECONDS = 15.0


@dataclass(slots=True)
class Probed:
    """What one phase of probing saw."""

    started: float
    ended: float = 0.0
    failures: int = 0
    latencies: Histogram = field(default_factory=Histogram)


class Prober:
    """Sends GETs for one path; keep one for all phases, so that connections are warm."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(maxsize=THREADS, retries=False, timeout=PATIENCE_SECONDS)
        self._lock = threading.Lock()

    def probe(self, *, rate: float, seconds: float) -> Probed:
        """Send `rate` requests per second for `seconds`; return when all are answered."""
        probed = Probed(time.time())
        begin = time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads:
            for number in range(int(rate * seconds)):
                due = begin + number / rate
                time.sleep(max(0.0, due - time.monotonic()))
                threads.submit(self._one, due, probed)
        probed.ended = time.time()
        return probed

    def _one(self, due: float, probed: Probed) -> None:
        try:
            passed = self._http.request("GET", self._url).status == 200
        except urllib3.exceptions.HTTPError:
            passed = False
        seconds = time.monotonic() - due
        with self._lock:
            probed.latencies.add(seconds)
            probed.failures += not passed
