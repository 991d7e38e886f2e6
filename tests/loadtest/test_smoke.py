"""Every load test command against the running stack: seconds, small, and able to fail."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import command
from tests.fix_clients import MakeApplication
from tests.fix_ops import EnvDir
from tests.fix_sql import AdminConsole
from tests.fix_stack import ENV_DIR, REPOSITORY, Stack, poll

COMMAND = REPOSITORY / "loadtest" / "run"
RESULTS = REPOSITORY / "loadtest" / "results"
SECONDS_MAX = 600
WEB_PORT = 8089


class Run:
    """One finished command: exit code, what it said, and its directory."""

    def __init__(self, name: str, settings: dict[str, object]) -> None:
        options = {key: str(value) for key, value in settings.items()}
        self.done = command.run(str(COMMAND), name, env=options, seconds=SECONDS_MAX)
        found = re.search(r"loadtest/results/(\S+)/index\.html", self.done.stderr)
        assert found, self.done.stderr[-3000:]
        self.directory = RESULTS / found[1]

    def read(self, name: str) -> Any:
        """Return one of the run's JSON files."""
        return json.loads((self.directory / f"{name}.json").read_text("utf-8"))

    def page(self) -> str:
        """Return the page about the run."""
        return (self.directory / "index.html").read_text("utf-8")


@pytest.fixture
def runs(stack: Stack) -> Iterator[list[Path]]:
    """Remove the directories of the runs that a test made."""
    made: list[Path] = []
    yield made
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)


def start(runs: list[Path], name: str, **settings: object) -> Run:
    run = Run(name, settings)
    runs.append(run.directory)
    return run


def test_load_reports_what_users_saw(runs: list[Path]) -> None:
    run = start(runs, "load", USERS=3, RUN_SECONDS=4, MAX_P95_MS=60_000)
    assert run.done.returncode == 0, run.done.stderr[-3000:]
    found = run.read("load")
    assert found["all"]["count"] > 0
    assert found["all"]["failures"] == 0
    assert sum(one["requests"] for one in found["seconds"]) == found["all"]["count"]
    assert "Latency distribution" in run.page()
    # Lines of progress, then one table: the last rows are one for each kind and one for all.
    assert re.search(r"^4 of 4 s: \d+ users, [1-9]", run.done.stderr, re.MULTILINE)
    table = run.done.stdout.splitlines()
    assert run.done.stdout.count("p95 ms") == 1
    assert max(map(len, table)) <= 80
    assert any(line.startswith("all ") for line in table)


@pytest.mark.slow
def test_load_fails_beyond_a_threshold(runs: list[Path]) -> None:
    run = start(runs, "load", USERS=2, RUN_SECONDS=3, MAX_P95_MS=0.001)
    assert run.done.returncode == 1
    assert "MAX_P95_MS" in run.done.stderr


def test_load_refuses_a_setting_that_cannot_be(runs: list[Path]) -> None:
    run = start(runs, "load", SHAPE="wave")
    assert run.done.returncode == 2
    assert "SHAPE='wave'" in run.done.stderr


@pytest.mark.slow
def test_locusts_page_is_on_loopback_and_drives_the_load(runs: list[Path]) -> None:
    with ThreadPoolExecutor() as background:
        run = background.submit(start, runs, "load", WEB_PORT=WEB_PORT, RUN_SECONDS=10)
        page = f"http://127.0.0.1:{WEB_PORT}"
        poll(lambda: _answers(page), seconds=SECONDS_MAX / 2, what="Locust's page", every=0.5)
        httpx.post(f"{page}/swarm", data={"user_count": "2", "spawn_rate": "2"}).raise_for_status()
    assert run.result().read("load")["all"]["count"] > 0


@pytest.mark.slow
def test_pgbench_runs_on_both_paths_without_hanging(runs: list[Path]) -> None:
    run = start(runs, "load-sql", CLIENTS=8, CASE_SECONDS=1, REPEATS=1, SCALE=1)
    assert run.done.returncode == 0, run.done.stderr[-3000:]
    found = run.read("load-sql")["runs"]
    assert {(one["path"], one["protocol"]) for one in found} >= {
        ("pgbouncer", "prepared"),
        ("direct", "prepared"),
        ("pgbouncer", "extended"),
    }
    assert all(one["tps"] > 0 for one in found)


@pytest.mark.slow
def test_compare_finds_equal_results_and_counts_failures(runs: list[Path]) -> None:
    run = start(
        runs,
        "compare",
        SITE_YEARS=1,
        FAILURE_SECONDS=8,
        RUNS=2,
        PROCESSES=1,
        PROCESS_SECONDS=2,
    )
    assert run.done.returncode == 0, run.done.stderr[-3000:]
    lab, sluice = run.read("compare-lab"), run.read("compare-stack")
    assert len({*lab["digests"].values(), sluice["digest"]}) == 1
    assert lab["ways"]["per_operation"]["done"] == 4
    assert lab["ways"]["per_operation"]["acquisition"]["count"] == 4 * 108
    assert lab["ways"]["pool_pgbouncer"]["failed_operations"] == 0


@pytest.mark.slow
def test_isolation_probes_every_phase(runs: list[Path]) -> None:
    run = start(
        runs,
        "isolation",
        PHASE_SECONDS=2,
        REPEATS=1,
        RATE=10,
        MAX_RATIO=1000,
        SUBMISSIONS=3,
        # Longer than the longest pause between two polls of a worker.
        IDLE_SECONDS=10,
    )
    assert run.done.returncode == 0, run.done.stderr[-3000:]
    phases = run.read("isolation")["phases"]
    assert [one["all"]["count"] for one in phases.values()] == [20, 20, 20]
    idle = run.read("idle")
    assert idle["start"]["count"] == 3
    assert idle["transactions_per_second"] > 0


@pytest.mark.slow
def test_tune_measures_live_and_puts_back_what_was(
    runs: list[Path], console: AdminConsole, env: EnvDir, make_application: MakeApplication
) -> None:
    application = make_application("tuned")
    application.set(POOL_SIZE=1)
    assert application.apply().exit_code == 0
    before = _pool_sizes(console)
    assert "tuned" in before
    options = {"SLUICE_ENV_DIR": env.path}
    run = start(runs, "tune", MINUTES=0.75, REPEATS=1, POINT_SECONDS=1, USERS=2, **options)
    assert run.done.returncode == 0, run.done.stderr[-3000:]
    found = run.read("tune")
    assert len(found["measurements"]) > 1
    assert sum(one["failures"] for one in found["measurements"]) == 0
    assert _pool_sizes(console) == before
    recommended = (run.directory / "recommended.env").read_text("utf-8")
    assert re.search(
        r"^# Tried at \d+: \d+ requests/s, \d+ % of the best.*; interval not measured: one round",
        recommended,
        re.MULTILINE,
    )
    assert "# Measured at" not in recommended
    assert not any("percent_of_best" in one for one in found["result"]["verified"])
    assert len(recommended) > len((ENV_DIR / "stack.env").read_text("utf-8")) / 2


@pytest.mark.slow
def test_soak_samples_every_tier(runs: list[Path]) -> None:
    run = start(runs, "soak", MINUTES=0.1, USERS=2, MAX_P95_MS=60_000)
    assert run.done.returncode == 0, run.done.stderr[-3000:]
    containers = {one["container"].split()[0] for one in run.read("growth")["figures"]}
    assert containers == {"postgres", "pgbouncer", "api", "worker"}


@pytest.fixture
def results_page() -> Iterator[Path]:
    """Give the committed page of figures; put it back as it was."""
    page = REPOSITORY / "docs" / "results.md"
    before = page.read_bytes() if page.exists() else None
    yield page
    if before is None:
        page.unlink(missing_ok=True)
    else:
        page.write_bytes(before)


@pytest.mark.slow
def test_runs_are_listed_and_written_down(runs: list[Path], results_page: Path) -> None:
    run = start(runs, "load", USERS=2, RUN_SECONDS=3, MAX_P95_MS=60_000)
    for target in ("report", "results"):
        done = command.run("make", target)
        assert done.returncode == 0, done.stderr
    assert run.directory.name in (RESULTS / "index.html").read_text("utf-8")
    written = results_page.read_text("utf-8")
    assert "Machine and tools" in written
    assert "what was to be shown" in written


@pytest.mark.slow
def test_nothing_of_the_lab_is_left(stack: Stack) -> None:
    label = {"label": f"com.docker.compose.project={stack.project}"}
    names = {one.name for one in stack.client.volumes.list(filters=label)}
    names |= {str(one.name) for one in stack.client.networks.list(filters=label)}
    assert not [name for name in names if "lab" in name]
    assert stack.containers("lab-postgres", all_states=True) == []
    assert stack.containers("lab-pgbouncer", all_states=True) == []


def _answers(page: str) -> bool:
    try:
        return httpx.get(page, timeout=5).is_success
    except httpx.HTTPError:
        return False


def _pool_sizes(console: AdminConsole) -> dict[str, str]:
    return {row["name"]: row["pool_size"] for row in console.show("DATABASES")}
