"""The metrics of several processes in one answer."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app.api import sharing
from app.pool.metrics import BUCKETS_SECONDS

# A process on a seat: it answers requests, and its pool lends connections. Then it is killed, or
# ends, or says what there is to scrape.
PROGRAM = """
import asyncio, json, os, signal, sys, threading
from prometheus_client import CollectorRegistry
from app.api.sharing import SharedMetrics, share_metrics
from app.metrics import HttpMetrics, make_registry
from app.pool import PoolState
from app.pool.metrics import Source, Tally, collector_for

seat, requests, loans, in_use, end = json.loads(sys.argv[1])
share_metrics(seat)
registry = make_registry()
http, tally = HttpMetrics(None), Tally()
state = PoolState("risk", 4, 2, 16, in_use, 1, 0, 64)
collector_for(registry).add(Source("risk", lambda: state, tally, dict))
shared = SharedMetrics(registry)
for _ in range(requests):
    http.observe("GET", "/", 200, 0.004)
for _ in range(loans):
    tally.wait_time.add(3e-5)
    tally.add("discards", "lost")
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "copied":
    async def work():
        async with shared.copying():
            pass
    asyncio.run(work())
if end == "scraped":
    # The second answer counts nothing twice.
    shared.text()
    sys.stdout.write(shared.text().decode())
"""


@pytest.fixture
def process(tmp_path: Path) -> Any:
    """Return a function that runs a process on a seat and returns what it printed, by sample."""

    def run(
        seat: int, *, requests: int = 0, loans: int = 0, in_use: int = 0, end: str = "scraped"
    ) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps([seat, requests, loans, in_use, end])],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=end != "killed",
            timeout=60,
        )
        return {
            sample.name + "".join(sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(done.stdout)
            for sample in family.samples
        }

    return run


REQUESTS = "sluice_http_requests_total" + "".join(sorted(("GET", "/", "200")))


def test_an_answer_has_what_every_process_counted(process: Any) -> None:
    process(0, requests=3, loans=2, in_use=1, end="copied")
    found = process(1, requests=4, loans=5, in_use=2)
    assert found[REQUESTS] == 7
    assert found["sluice_http_request_seconds_count/GET"] == 7
    assert found["dbpool_discards_totallostrisk"] == 7
    assert found["dbpool_acquire_seconds_countrisk"] == 7
    assert found["dbpool_acquire_seconds_sumrisk"] == pytest.approx(7 * 3e-5)
    assert found["db_client_connection_wait_time_seconds_countrisk"] == 7
    assert found["db_client_connection_countriskused"] == 3


def test_the_buckets_of_a_copied_histogram_add_up(process: Any) -> None:
    process(0, loans=2, end="copied")
    found = process(1, loans=5)
    for bound in (*BUCKETS_SECONDS, float("inf")):
        text = "+Inf" if bound == float("inf") else str(bound)
        expected = 7 if bound >= 3e-5 else 0
        assert found["dbpool_acquire_seconds_bucket" + "".join(sorted((text, "risk")))] == expected


def test_sizes_are_sums_over_the_living(process: Any, tmp_path: Path) -> None:
    process(0, in_use=3, end="copied")
    assert process(1, in_use=2)["dbpool_in_userisk"] == 5
    # As the supervisor does when a process has ended.
    (tmp_path / "gauge_livesum_0.db").unlink()
    found = process(1, in_use=2)
    assert found["dbpool_in_userisk"] == 2
    assert found["process_resident_memory_bytes"] > 0


def test_requests_of_a_killed_process_are_not_lost(process: Any) -> None:
    process(0, requests=3, end="killed")
    assert process(1, requests=1)[REQUESTS] == 4


def test_a_process_goes_on_counting_where_the_last_one_on_its_seat_ended(process: Any) -> None:
    process(0, requests=3, loans=3, end="copied")
    found = process(0, requests=1, loans=1)
    assert found[REQUESTS] == 4
    assert found["dbpool_discards_totallostrisk"] == 4
    assert found["dbpool_acquire_seconds_countrisk"] == 4


def test_a_file_that_another_process_is_about_to_begin_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    answers: list[bytes | None] = [None, b"text"]

    def generate(_: CollectorRegistry) -> bytes:
        answer = answers.pop(0)
        if answer is None:
            raise struct.error
        return answer

    monkeypatch.setattr(sharing, "generate_latest", generate)
    assert sharing.SharedMetrics(CollectorRegistry()).text() == b"text"
