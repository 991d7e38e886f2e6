"""One pgbench run: its command line, its window of measurement, its figures.

pgbench's own clock (-T) starts before its clients log in, and ten thousand logins take longer
than the measurement. So it is given far too long, and ended once it has reported as many
seconds as were asked for, counted from the moment that every client was there.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from loadtest.histogram import Histogram, summary_ms
from loadtest.sql.cases import Case

PORTS = {"direct": 5432, "pgbouncer": 6432}
HOSTS = {"direct": "postgres", "pgbouncer": "pgbouncer"}
# Enough for a p99, and no gigabyte of log.
LOGGED_TRANSACTIONS = 50_000
EXPECTED_PER_SECOND = 10_000
# The first report covers the logins, the second the burst after them.
REPORTS_SKIPPED = 2
# A login that takes ten times as long as expected is a fault, not a slow machine.
LOGIN_FACTOR_MAX = 10
START_SECONDS_MAX = 30.0
END_SECONDS_MAX = 15.0
MESSAGES_MAX = 10
COLUMNS = 6

_REPORT = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+|NaN) ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """How long to measure and what to expect of logins."""

    seconds: int
    login_ms: float
    password_file: Path
    ca_file: Path

    def expected_seconds(self, case: Case) -> float:
        """Return how long a case should take, logins included."""
        logins = 0.0 if case.connect else case.clients * self.login_ms / 1000
        return REPORTS_SKIPPED + self.seconds + logins

    def seconds_max(self, case: Case) -> float:
        """Return after how long a run is ended, whatever it does."""
        return START_SECONDS_MAX + LOGIN_FACTOR_MAX * self.expected_seconds(case)


def environment(bench: Bench, case: Case) -> dict[str, str]:
    """Return libpq's settings: SCRAM over TLS with the server's name checked, as the app does."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "PGHOST": HOSTS[case.path],
        "PGPORT": str(PORTS[case.path]),
        "PGUSER": "risk_worker",
        "PGDATABASE": "bench",
        "PGPASSWORD": bench.password_file.read_text(encoding="utf-8").strip(),
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(bench.ca_file),
        "PGGSSENCMODE": "disable",
        "PGCONNECT_TIMEOUT": "30",
    }


def command(case: Case, bench: Bench) -> list[str]:
    """Return the command line of a case; statistics go to pgbench_log.* where it is run."""
    share = min(1.0, LOGGED_TRANSACTIONS / (bench.seconds * EXPECTED_PER_SECOND))
    script = ["--select-only"] if case.mode == "read" else ["--builtin=tpcb-like"]
    return [
        "pgbench",
        "--no-vacuum",
        *script,
        f"--protocol={case.protocol}",
        f"--client={case.clients}",
        f"--jobs={case.threads}",
        f"--time={int(bench.seconds_max(case)) + 1}",
        "--progress=1",
        "--progress-timestamp",
        "--log",
        f"--sampling-rate={share:.6f}",
        *(["--connect"] if case.connect else []),
    ]


def run(case: Case, bench: Bench) -> dict[str, Any]:
    """Run a case within its time and return its figures; a failure is one of them."""
    with tempfile.TemporaryDirectory() as directory:
        started = time.time()
        lines, processor = _watched(case, bench, directory)
        ended = time.time()
        result = figures(lines, started)
        histogram = _latencies(Path(directory), result["window"])
    return result | {
        "started": started,
        "ended": ended,
        "client_cores": cores(result["window"], processor),
        "latency": summary_ms(histogram),
        "histogram": histogram.to_json(),
    }


def figures(lines: Iterable[str], started: float) -> dict[str, Any]:
    """Return the figures of pgbench's progress lines; Unix times, seconds, milliseconds.

    `window` is the measured span, without the reports on logins and warming up.
    """
    reports: list[list[float]] = []
    messages: list[str] = []
    for line in lines:
        match = _REPORT.match(line)
        if match:
            reports.append([float(match[1]), float(match[2])])
        elif line.strip() and not line.startswith("pgbench (17"):
            messages.append(line.strip()[:300])
    measured = reports[REPORTS_SKIPPED - 1 :]
    spans = [(late[0] - early[0], late[1]) for early, late in pairwise(measured)]
    seconds = sum(span for span, _ in spans)
    return {
        "tps": sum(span * tps for span, tps in spans) / seconds if seconds else None,
        "login_seconds": reports[0][0] - started if reports else None,
        "window": [measured[0][0], measured[-1][0]] if seconds else None,
        "progress": reports[REPORTS_SKIPPED:],
        "errors": sum("error" in message or "aborted" in message for message in messages),
        "messages": messages[-MESSAGES_MAX:],
    }


def cores(window: list[float] | None, processor: list[float]) -> float | None:
    """Return the processors in use in the window; `processor`: seconds used until each report."""
    if window is None:
        return None
    return (processor[-1] - processor[REPORTS_SKIPPED - 1]) / (window[1] - window[0])


def is_complete(result: Mapping[str, Any]) -> bool:
    """Tell whether a run measured something and no client of it failed."""
    return bool(result["tps"]) and not result["errors"]


def _watched(case: Case, bench: Bench, directory: str) -> tuple[list[str], list[float]]:
    """Run pgbench until it has reported enough seconds.

    Returns what it wrote to stderr, and the processor seconds it had used at each report.
    """
    lines: list[str] = []
    processor: list[float] = []
    with subprocess.Popen(  # noqa: S603  # our own command line
        command(case, bench),
        cwd=directory,
        env=environment(bench, case),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(bench.seconds_max(case), process.kill)
        watchdog.start()
        try:
            for line in process.stderr or ():
                lines.append(line)
                if _REPORT.match(line):
                    used = psutil.Process(process.pid).cpu_times()
                    processor.append(used.user + used.system)
                if len(processor) >= REPORTS_SKIPPED + bench.seconds:
                    break
        finally:
            watchdog.cancel()
            _end(process)
    return lines, processor


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS_MAX)
    process.kill()


def _latencies(directory: Path, window: list[float] | None) -> Histogram:
    """Read the sampled transactions of the window.

    Columns: client, transaction, latency in microseconds, script, Unix seconds, microseconds.
    """
    histogram = Histogram()
    first, last = window or (0.0, float("inf"))
    for path in directory.glob("pgbench_log.*"):
        with path.open(encoding="ascii") as lines:
            for columns in map(str.split, lines):
                # The last line may be cut short, and a failed transaction has no latency.
                whole = len(columns) >= COLUMNS and columns[2].isdecimal()
                if whole and first <= float(columns[4]) <= last:
                    histogram.add(int(columns[2]) / 1e6)
    return histogram
