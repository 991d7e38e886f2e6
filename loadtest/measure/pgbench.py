"""pgbench through PgBouncer and direct: which runs there are, one run, and all of them in turns.

pgbench's own clock (-T) starts before its clients log in, and ten thousand logins take longer
than the measurement. So it is given far too long, and ended once it has reported as many
seconds as were asked for, counted from the moment that every client was there.
"""

from __future__ import annotations

import re
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from loadtest.database import arguments, environment
from loadtest.figures import Histogram, summary_ms
from loadtest.progress import Steps
from loadtest.run_directory import RunDirectory

PATHS = ("pgbouncer", "direct")
# Of every kind but the plain read, enough to see the trend.
SMALL_CLIENTS = (8, 64)
WRITE_CLIENTS = (8, 64, 380)
# One thread each: a thread that prepares waits for a server connection that its own other
# clients may hold, and then waits for ever.
PREPARED_CLIENTS_MAX = 64
THREADS_MAX = 2
# pgbench, libraries and log files.
OPEN_FILES_SLACK = 200

DATABASE = "bench"
# Of each of many logins at once.
CONNECT_TIMEOUT_SECONDS = 30
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
INIT_SECONDS_MAX = 300

_REPORT = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+|NaN) ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One pgbench run; `connect` opens a connection for every transaction."""

    path: str
    mode: str
    protocol: str
    clients: int
    connect: bool = False

    @property
    def kind(self) -> str:
        """Return what the case has in common with its other client counts."""
        return f"{self.mode} {self.protocol}{' connecting' if self.connect else ''}"

    @property
    def name(self) -> str:
        """Return the whole case in words."""
        return f"{self.kind}, {self.clients} clients, {self.path}"

    @property
    def threads(self) -> int:
        """Return pgbench's threads: see PREPARED_CLIENTS_MAX for the prepared protocol."""
        return self.clients if self.protocol == "prepared" else min(THREADS_MAX, self.clients)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self) | {"kind": self.kind, "name": self.name}


def cases(clients: Sequence[int], only: str = "") -> Iterator[Case]:
    """Yield every case for these client counts, both paths next to each other.

    `only` keeps the cases whose kind contains it.
    """
    for kind in _kinds(clients):
        for path in PATHS:
            case = Case(path=path, **kind)
            if only in case.kind:
                yield case


def reason_against(case: Case, *, direct_max: int, open_files: int) -> str:
    """Return why a case cannot be run here; empty when it can."""
    if case.path == "direct" and case.clients > direct_max:
        return f"direct is measured up to {direct_max} connections (DIRECT_CLIENTS_MAX)"
    if case.clients + OPEN_FILES_SLACK > open_files:
        return f"{case.clients} clients need more than the {open_files} open files allowed"
    if case.protocol == "prepared" and case.clients > PREPARED_CLIENTS_MAX:
        return f"prepared needs a thread per client; the most here is {PREPARED_CLIENTS_MAX}"
    return ""


def _kinds(clients: Sequence[int]) -> Iterator[dict[str, Any]]:
    for count in clients:
        yield {"mode": "read", "protocol": "extended", "clients": count}
    for protocol in ("simple", "prepared"):
        for count in (one for one in clients if one in SMALL_CLIENTS):
            yield {"mode": "read", "protocol": protocol, "clients": count}
    for count in (one for one in clients if one in WRITE_CLIENTS):
        yield {"mode": "write", "protocol": "extended", "clients": count}
    for count in (one for one in clients if one in SMALL_CLIENTS):
        yield {"mode": "read", "protocol": "simple", "clients": count, "connect": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What to run, how often, for how long each, and what to expect of a login."""

    clients: Sequence[int]
    direct_max: int
    seconds: int
    repeats: int
    scale: int
    login_ms: float
    only: str

    def expected_seconds(self, case: Case) -> float:
        """Return how long a case should take, logins included."""
        logins = 0.0 if case.connect else case.clients * self.login_ms / 1000
        return REPORTS_SKIPPED + self.seconds + logins

    def seconds_max(self, case: Case) -> float:
        """Return after how long a run is ended, whatever it does."""
        return START_SECONDS_MAX + LOGIN_FACTOR_MAX * self.expected_seconds(case)


def run(campaign: Campaign, directory: RunDirectory) -> int:
    """Fill the tables, run every case, store each result at once; 1 when a case failed."""
    wanted, skipped = _selected(campaign)
    _fill(campaign.scale)
    turns = [case for _ in range(campaign.repeats) for case in wanted]
    results: list[dict[str, Any]] = []
    with Steps("pgbench", sum(campaign.expected_seconds(case) for case in turns)) as steps:
        for case in turns:
            steps.begin(case.name)
            result = measure(case, campaign)
            results.append(case.as_dict() | result)
            steps.end(_line(case, result), campaign.expected_seconds(case))
            _store(directory, campaign, results, skipped)
    return int(any(not is_complete(result) for result in results))


def _selected(campaign: Campaign) -> tuple[list[Case], list[tuple[Case, str]]]:
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted, skipped = [], []
    for case in cases(campaign.clients, campaign.only):
        reason = reason_against(case, direct_max=campaign.direct_max, open_files=open_files)
        if reason:
            skipped.append((case, reason))
        else:
            wanted.append(case)
    return wanted, skipped


def _fill(scale: int) -> None:
    subprocess.run(  # noqa: S603  # a constant command
        ["pgbench", "--initialize", "--quiet", f"--scale={scale}"],  # noqa: S607
        env=_libpq("direct"),
        timeout=INIT_SECONDS_MAX,
        check=True,
    )


def _store(
    directory: RunDirectory,
    campaign: Campaign,
    results: list[dict[str, Any]],
    skipped: list[tuple[Case, str]],
) -> None:
    options = {
        "case_seconds": campaign.seconds,
        "repeats": campaign.repeats,
        "scale": campaign.scale,
        "direct_clients_max": campaign.direct_max,
    }
    left_out = [{"name": case.name, "reason": reason} for case, reason in skipped]
    directory.write("load-sql", {"options": options, "runs": results, "skipped": left_out})


def _line(case: Case, result: dict[str, Any]) -> str:
    if not is_complete(result):
        why = result["messages"][-1] if result["messages"] else "no transaction"
        return f"{case.name}: FAILED: {why}"
    p99 = result["latency"]["p99_ms"]
    return f"{case.name}: {result['tps']:.0f} tps, p99 {p99 or float('nan'):.1f} ms"


def command(case: Case, campaign: Campaign) -> list[str]:
    """Return the command line of a case; statistics go to pgbench_log.* where it is run."""
    share = min(1.0, LOGGED_TRANSACTIONS / (campaign.seconds * EXPECTED_PER_SECOND))
    script = ["--select-only"] if case.mode == "read" else ["--builtin=tpcb-like"]
    return [
        "pgbench",
        "--no-vacuum",
        *script,
        f"--protocol={case.protocol}",
        f"--client={case.clients}",
        f"--jobs={case.threads}",
        f"--time={int(campaign.seconds_max(case)) + 1}",
        "--progress=1",
        "--progress-timestamp",
        "--log",
        f"--sampling-rate={share:.6f}",
        *(["--connect"] if case.connect else []),
    ]


def measure(case: Case, campaign: Campaign) -> dict[str, Any]:
    """Run a case within its time and return its figures; a failure is one of them."""
    with tempfile.TemporaryDirectory() as directory:
        started = time.time()
        lines, processor = _watched(case, campaign, directory)
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


def _libpq(path: str) -> dict[str, str]:
    return environment(arguments(path, DATABASE) | {"connect_timeout": CONNECT_TIMEOUT_SECONDS})


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
    """Return True if a run measured something and no client of it failed."""
    return bool(result["tps"]) and not result["errors"]


def _watched(case: Case, campaign: Campaign, directory: str) -> tuple[list[str], list[float]]:
    """Run pgbench until it has reported enough seconds.

    Returns what it wrote to stderr, and the processor seconds it had used at each report.
    """
    lines: list[str] = []
    processor: list[float] = []
    with subprocess.Popen(  # noqa: S603  # our own command line
        command(case, campaign),
        cwd=directory,
        env=_libpq(case.path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(campaign.seconds_max(case), process.kill)
        watchdog.start()
        try:
            for line in process.stderr or ():
                lines.append(line)
                if _REPORT.match(line):
                    used = psutil.Process(process.pid).cpu_times()
                    processor.append(used.user + used.system)
                if len(processor) >= REPORTS_SKIPPED + campaign.seconds:
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
