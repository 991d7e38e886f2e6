"""All pgbench cases of one run, repeats interleaved so that drift meets every case alike."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.progress import Steps
from loadtest.run_directory import RunDirectory
from loadtest.sql import pgbench
from loadtest.sql.cases import Case, Skipped, cases, reason_against

SETTINGS = Path("/etc/sluice")
INIT_SECONDS_MAX = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What to run, how often, and for how long each."""

    clients: Sequence[int]
    direct_max: int = 1000
    seconds: int = 10
    repeats: int = 3
    scale: int = 20
    login_ms: float = 9.0
    only: str = ""

    def bench(self) -> pgbench.Bench:
        """Return the part that a single run needs."""
        return pgbench.Bench(
            seconds=self.seconds,
            login_ms=self.login_ms,
            password_file=SETTINGS / "worker.password",
            ca_file=SETTINGS / "ca.crt",
        )


def run(campaign: Campaign, directory: RunDirectory) -> int:
    """Fill the tables, run every case, store each result at once; 1 when a case failed."""
    bench = campaign.bench()
    wanted, skipped = _selected(campaign)
    _fill(campaign.scale, bench)
    turns = [case for _ in range(campaign.repeats) for case in wanted]
    results: list[dict[str, Any]] = []
    with Steps("pgbench", sum(bench.expected_seconds(case) for case in turns)) as steps:
        for case in turns:
            steps.begin(case.name)
            result = pgbench.run(case, bench)
            results.append(case.as_dict() | result)
            steps.end(_line(case, result), bench.expected_seconds(case))
            _store(directory, campaign, results, skipped)
    return int(any(not pgbench.is_complete(result) for result in results))


def _selected(campaign: Campaign) -> tuple[list[Case], list[Skipped]]:
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted, skipped = [], []
    for case in cases(campaign.clients, campaign.only):
        reason = reason_against(case, direct_max=campaign.direct_max, open_files=open_files)
        if reason:
            skipped.append(Skipped(case, reason))
        else:
            wanted.append(case)
    return wanted, skipped


def _fill(scale: int, bench: pgbench.Bench) -> None:
    case = Case(path="direct", mode="read", protocol="simple", clients=1)
    subprocess.run(  # noqa: S603  # a constant command
        ["pgbench", "--initialize", "--quiet", f"--scale={scale}"],  # noqa: S607
        env=pgbench.environment(bench, case),
        timeout=INIT_SECONDS_MAX,
        check=True,
    )


def _store(
    directory: RunDirectory,
    campaign: Campaign,
    results: list[dict[str, Any]],
    skipped: list[Skipped],
) -> None:
    options = {
        "case_seconds": campaign.seconds,
        "repeats": campaign.repeats,
        "scale": campaign.scale,
        "direct_clients_max": campaign.direct_max,
    }
    left_out = [{"name": one.case.name, "reason": one.reason} for one in skipped]
    directory.write("load-sql", {"options": options, "runs": results, "skipped": left_out})


def _line(case: Case, result: dict[str, Any]) -> str:
    if not pgbench.is_complete(result):
        why = result["messages"][-1] if result["messages"] else "no transaction"
        return f"{case.name}: FAILED: {why}"
    p99 = result["latency"]["p99_ms"]
    return f"{case.name}: {result['tps']:.0f} tps, p99 {p99 or float('nan'):.1f} ms"
