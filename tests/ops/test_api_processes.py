"""Several api processes on one port: seen, changed in number, restarted and killed under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.oracle import check_no_failure, check_writes
from tests.fix_control import Operator
from tests.fix_faults import MakeLoad, hold, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import Stack, metrics_of, poll, run_in
from tests.ops.test_restart_app import identities

PROCESSES = 2
COUNTED = "sluice_http_requests"
Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def several(
    stack: Stack, ops: Commands, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EnvDir]:
    """Return the env directory of a stack whose api has two processors and processes."""
    env = EnvDir(tmp_path_factory.mktemp("several") / "env")
    env.set(API_CPUS="2.0", API_MEMORY_MB=384, API_PROCESSES=PROCESSES)
    done = ops.script("apply", "--restart", env=env)
    try:
        assert done.exit_code == 0, done.text
        yield env
    finally:
        back = ops.script("apply", "--restart", env=env.reset())
        assert back.exit_code == 0, back.text
        stack.wait_healthy(seconds=120)


def counters(stack: Stack) -> Counters:
    """Return every counter that one scrape shows, the counts of histograms included."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics_of(stack.container("api")))
        for sample in family.samples
        if family.type in ("counter", "histogram") and not sample.name.endswith("_created")
    }


def answered(found: Counters) -> float:
    """Return how many requests were answered."""
    return sum(value for (name, _), value in found.items() if name == f"{COUNTED}_total")


@contextmanager
def scraped(stack: Stack, fallen: list[str]) -> Iterator[None]:
    """Scrape again and again within the block, and list each counter that is less than before."""
    over = threading.Event()
    ended: list[float] = []

    def scrape() -> None:
        before: Counters = {}
        while not over.is_set():
            try:
                now = counters(stack)
            except ConnectionError:
                # Its process was killed.
                continue
            ended.append(time.monotonic())
            fallen.extend(
                f"{key}: {value} to {now.get(key)}"
                for key, value in before.items()
                if now.get(key, 0.0) < value
            )
            before = now
            over.wait(0.1)

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
        last = time.monotonic()
        poll(lambda: ended and ended[-1] > last, seconds=10, what="a scrape after all that")
    finally:
        over.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.slow
def test_the_number_of_processes_changes_under_load_without_a_failed_request(
    stack: Stack,
    sql: Sql,
    operator: Operator,
    ops: Commands,
    several: EnvDir,
    make_load: MakeLoad,
) -> None:
    container = stack.container("api").id
    with make_load() as load:
        wait_for_traffic(load)
        for count in (1, PROCESSES):
            plan = ops.run("plan", "--json", env_dir=several.set(API_PROCESSES=count).path)
            changes = {one["setting"]: one["change"] for one in plan.document["differences"]}
            assert changes == {"API_PROCESSES": "restart of api"}
            done = ops.script("apply", "--restart", env=several)
            assert done.exit_code == 0, done.text
            assert [one["processes"] for one in _settings(operator)] == [count] * count
        hold(8)
    assert stack.container("api").id == container
    check_no_failure(load)
    check_writes(load, sql)


def _settings(operator: Operator) -> list[dict[str, int]]:
    return [state["settings"] for state in operator.states("api")]


@pytest.mark.usefixtures("several")
def test_status_shows_every_process(stack: Stack, ops: Commands) -> None:
    done = ops.run("status", "--json")
    name = stack.container("api").name
    shown = [one["name"] for one in done.document["app"] if one["service"] == "api"]
    assert shown == [f"{name} process {number + 1}" for number in range(PROCESSES)]
    assert done.document["unreachable"] == []


@pytest.mark.slow
def test_a_restart_replaces_every_process_without_a_failed_request(
    stack: Stack,
    sql: Sql,
    operator: Operator,
    ops: Commands,
    several: EnvDir,
    make_load: MakeLoad,
) -> None:
    before = identities(operator, "api")
    fallen: list[str] = []
    with make_load() as load, scraped(stack, fallen):
        wait_for_traffic(load)
        done = ops.script("restart-app", "--compiled", "api", env=several)
        assert done.exit_code == 0, done.text
        hold(8)
    after = identities(operator, "api")
    assert len(after) == PROCESSES
    assert not after & before
    check_no_failure(load)
    check_writes(load, sql)
    assert fallen == []


@pytest.mark.usefixtures("several")
def test_a_killed_process_refuses_nobody_and_takes_no_counter_with_it(
    stack: Stack, operator: Operator, make_load: MakeLoad
) -> None:
    container = stack.container("api")
    victim = operator.states("api")[-1]["pid"]
    fallen: list[str] = []
    first = answered(counters(stack))
    with make_load() as load, scraped(stack, fallen):
        wait_for_traffic(load)
        kill = f"import os, signal; os.kill({victim}, signal.SIGKILL)"
        code, said = run_in(container, ["python", "-c", kill])
        assert code == 0, said

        def replaced() -> bool:
            states = [one.get("state") for one in operator.ask("state", "api")]
            pids = {one["pid"] for one in states if one}
            return len(pids) == PROCESSES and victim not in pids

        poll(replaced, seconds=30, what="a new process in its place")
        hold(2)
    failed = [one for one in load.samples if not 200 <= one.status < 300]
    # What the killed process had in hand is cut; nobody is turned away.
    assert not [one for one in failed if "refused" in one.error or one.status], failed
    assert fallen == []
    assert answered(counters(stack)) - first >= len(load.samples) - len(failed)
