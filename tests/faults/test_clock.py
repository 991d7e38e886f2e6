"""A clock that steps, back and forth: waits go by the monotonic clock, leases by the database's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from docker.models.containers import Container

from tests import command
from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_api import SEOUL, Api, assessment_body
from tests.fix_faults import hold, wait_for_traffic
from tests.fix_sql import Sql
from tests.fix_stack import Stack, poll, run_in

LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
# Beyond every lease, deadline and pause; within the validity of the certificates.
STEPS_SECONDS = (3600, 0, 86400, 60)
BETWEEN_SECONDS = 2.0
SITES = 8
TASKS = SITES * 4 * 80

Set = Callable[[int], None]


@pytest.fixture
def clock(drivers_image: str, tmp_path: Path) -> tuple[Path, Set]:
    """Return a directory with libfaketime and its file, and how to set the seconds it is fast."""
    taken = ("sh", "-c", f"cp {LIBRARY} /out/faketime.so")
    mounted = ("--volume", f"{tmp_path}:/out")
    done = command.run("docker", "run", "--rm", "--network=none", *mounted, drivers_image, *taken)
    assert done.exit_code == 0, done.text

    def fast(seconds: int) -> None:
        (tmp_path / "fast").write_text(f"+{seconds}\n", encoding="ascii")

    fast(0)
    # The users of the tiers are to read it.
    tmp_path.chmod(0o755)
    return tmp_path, fast


def _beside(stack: Stack, service: str, clock: Path) -> Container:
    """Return a container of a service as Compose made it, with a clock of its own."""
    original = stack.container(service).attrs
    config, networks = original["Config"], list(original["NetworkSettings"]["Networks"])
    variables = {
        "LD_PRELOAD": "/clock/faketime.so",
        "FAKETIME_TIMESTAMP_FILE": "/clock/fast",
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    made: Container = stack.client.containers.create(
        config["Image"],
        config["Cmd"],
        entrypoint=config["Entrypoint"],
        user=config["User"],
        environment=config["Env"] + [f"{name}={value}" for name, value in variables.items()],
        volumes_from=[original["Id"]],
        volumes={str(clock): {"bind": "/clock", "mode": "ro"}},
        tmpfs=original["HostConfig"]["Tmpfs"],
        network=networks[0],
    )
    for one in networks[1:]:
        stack.client.networks.get(one).connect(made)
    made.start()
    return made


@pytest.fixture
def stepping(stack: Stack, clock: tuple[Path, Set]) -> Iterator[tuple[Container, Container]]:
    """Return an api beside the other one, and the only worker, both with that clock."""
    workers = stack.containers("worker")
    with ExitStack() as undo:
        undo.callback(stack.wait_healthy)
        for one in workers:
            undo.callback(one.start)
        api = _beside(stack, "api", clock[0])
        undo.callback(api.remove, force=True)
        worker = _beside(stack, "worker", clock[0])
        undo.callback(worker.remove, force=True)
        for one in workers:
            one.stop()
        yield api, worker


def _url(container: Container) -> str:
    container.reload()
    networks = container.attrs["NetworkSettings"]["Networks"].values()
    address = next(one["IPAddress"] for one in networks if one["IPAddress"])
    return f"http://{address}:8000"


@pytest.mark.slow
def test_a_clock_that_steps_fails_no_request_and_doubles_no_result(
    stepping: tuple[Container, Container],
    clock: tuple[Path, Set],
    sql: Sql,
    deadline_seconds: float,
) -> None:
    api, worker = stepping
    with httpx.Client(base_url=_url(api), timeout=15) as http:

        def is_ready() -> bool:
            try:
                return http.get("/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        poll(is_ready, seconds=30, what="the api with its own clock is ready")
        sites = [{**SEOUL, "site_id": f"site-{number}"} for number in range(SITES)]
        response = Api(http).submit(assessment_body(*sites))
        assert response.status_code == 202, response.text
        assessment_id = response.json()["assessment_id"]
        seen = set()
        with Load(_url(api), threads=4) as load:
            wait_for_traffic(load)
            for seconds in STEPS_SECONDS:
                clock[1](seconds)
                hold(BETWEEN_SECONDS)
                code, text = run_in(worker, ["python", "-c", "import time; print(time.time())"])
                assert code == 0, text
                seen.add(round((float(text) - time.time()) / 60))
        final = Api(http).wait_finished(assessment_id, seconds=120)
    assert seen == {seconds // 60 for seconds in STEPS_SECONDS}
    oracle.check_no_failure(load)
    oracle.check_deadlines(load, deadline_seconds)
    oracle.check_writes(load, sql)
    assert (final["done_tasks"], final["failed_tasks"]) == (TASKS, 0)
    (row,) = sql.rows(
        "SELECT count(*) AS all_rows,"
        " count(DISTINCT (site_no, scenario, year, risk_type)) AS distinct_rows"
        f" FROM risk.aal_scaled_results WHERE assessment_id = '{assessment_id}'"
    )
    assert row["all_rows"] == row["distinct_rows"]
    assert int(row["all_rows"]) >= TASKS
    oracle.check_nothing_left(sql)
