"""The stack on three machines: deployed, updated and hurt under load; a lost node comes back.

The tests run in this order and leave the stack whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_api import SEOUL, Api, assessment_body
from tests.fix_sql import Row, Sql
from tests.fix_stack import poll
from tests.swarm.bench import NODES, STACK, Bench, read_csv

# Swarm misses a node after 15 s, Patroni its primary after 20 s and a few more.
OUTAGE_SECONDS = 60
# HAProxy misses an api after two checks.
MISSED_SECONDS = 5
# Few: three engines, three servers and the callers share this machine.
LOAD_THREADS = 3
SITES = 20
TASKS_OF_A_SITE = 4 * 80
RESULTS_OF_A_TASK = 9


class BenchSql(Sql):
    """The superuser's queries, in the container of whichever instance is the primary."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def rows(self, statement: str, *, database: str = "risk") -> list[Row]:
        """Return the statement's rows as text by column name."""
        node = poll(self._bench.primary, seconds=OUTAGE_SECONDS, what="an instance is the primary")
        return read_csv(self._bench.psql(node, statement, database=database).stdout)


def load(bench: Bench, node: str) -> Load:
    """Return callers of the api at a node."""
    return Load(bench.url(node), threads=LOAD_THREADS, pause_seconds=0.1)


def finished(bench: Bench, node: str) -> dict[str, object]:
    """Return an assessment that was submitted at a node, once it has ended."""
    with httpx.Client(base_url=bench.url(node), timeout=15) as http:
        return Api(http).run(assessment_body(SEOUL), seconds=120)


def submitted(bench: Bench, node: str) -> str:
    """Return the id of a larger assessment that is under way."""
    sites = [{**SEOUL, "site_id": f"site-{number}"} for number in range(SITES)]
    with httpx.Client(base_url=bench.url(node), timeout=15) as http:
        response = Api(http).submit(assessment_body(*sites))
    assert response.status_code == 202, response.text
    return str(response.json()["assessment_id"])


def check_whole(bench: Bench, node: str, assessment_id: str, sql: Sql) -> None:
    """Check that an assessment is complete, with each of its results once."""
    with httpx.Client(base_url=bench.url(node), timeout=15) as http:
        final = Api(http).wait_finished(assessment_id, seconds=180)
    assert (final["done_tasks"], final["failed_tasks"]) == (SITES * TASKS_OF_A_SITE, 0)
    for table in ("exposure_results", "vulnerability_results", "aal_scaled_results"):
        (row,) = sql.rows(
            "SELECT count(*) AS all_rows,"
            " count(DISTINCT (site_no, scenario, year, risk_type)) AS distinct_rows"
            f" FROM risk.{table} WHERE assessment_id = '{assessment_id}'"
        )
        expected = str(SITES * TASKS_OF_A_SITE * RESULTS_OF_A_TASK)
        assert (row["all_rows"], row["distinct_rows"]) == (expected, expected)


def images_of(bench: Bench) -> dict[str, str]:
    """Return the image of each service."""
    listed = bench.on(bench.manager, "service", "ls", "--format", "{{.Name}} {{.Image}}").stdout
    return dict(line.split(" ", 1) for line in listed.splitlines())


def specs(bench: Bench) -> str:
    """Return the version of every service: another one after any update."""
    names = bench.on(bench.manager, "service", "ls", "--quiet").stdout.split()
    shown = "{{.Spec.Name}} {{.Version.Index}}"
    return bench.on(bench.manager, "service", "inspect", "--format", shown, *names).stdout


def test_every_node_answers_and_each_result_is_stored_once(bench: Bench) -> None:
    for node in NODES:
        assert finished(bench, node)["status"] == "succeeded"
    sql = BenchSql(bench)
    check_whole(bench, NODES[0], submitted(bench, NODES[2]), sql)
    oracle.check_nothing_left(sql)


def test_status_shows_nodes_services_and_the_whole_path(bench: Bench) -> None:
    done = bench.make("swarm-status")
    for expected in (*NODES, f"{STACK}_api", "PgBouncer", "3/3"):
        assert expected in done.stdout
    assert f"{STACK}_pgbouncer.2" in done.stdout, "each replica has a line of its own"


def test_a_manager_without_the_secrets_shows_the_services_and_makes_no_volume(bench: Bench) -> None:
    done = bench.make("swarm-status", node=NODES[1])
    assert done.exit_code != 0
    assert f"{STACK}_api" in done.stdout
    assert "the stack's secrets are not on this manager" in done.stderr
    volumes = bench.on(NODES[1], "volume", "ls", "--quiet").stdout.split()
    assert f"{STACK}_secrets" not in volumes


def test_networks_are_internal_and_the_app_does_not_reach_the_server(bench: Bench) -> None:
    shown = "{{.Name}} {{.Driver}} {{.Internal}}"
    listed = bench.on(bench.manager, "network", "ls", "--filter", "driver=overlay", "--quiet")
    found = bench.on(
        bench.manager, "network", "inspect", "--format", shown, *listed.stdout.split()
    ).stdout.splitlines()
    internal = {line.split()[0] for line in found if line.endswith("overlay true")}
    assert {f"{STACK}_{one}" for one in ("pool", "db", "control", "etcd")} <= internal
    api = bench.container(NODES[0], "api")
    script = "import socket; socket.getaddrinfo('postgres', 5432)"
    words = ("exec", api, "python", "-c", script)
    assert "gaierror" in bench.on(NODES[0], *words, check=False).text


@pytest.mark.parametrize(
    ("change", "undo", "said"),
    [
        (
            ("node", "update", "--label-rm", "sluice.postgres", NODES[1]),
            ("node", "update", "--label-add", "sluice.postgres=2", NODES[1]),
            "no node has the label sluice.postgres=2; give it to exactly one",
        ),
        (
            ("node", "update", "--availability", "drain", NODES[2]),
            ("node", "update", "--availability", "active", NODES[2]),
            "node-3, which has the label sluice.postgres=3, is set to drain",
        ),
    ],
    ids=["label missing", "node drained"],
)
def test_a_swarm_at_fault_is_refused_and_nothing_is_touched(
    bench: Bench, change: tuple[str, ...], undo: tuple[str, ...], said: str
) -> None:
    before = specs(bench)
    bench.on(bench.manager, *change)
    try:
        refused = bench.make("swarm-apply")
    finally:
        bench.on(bench.manager, *undo)
        bench.wait_whole()
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert specs(bench) == before


def test_settings_that_cannot_be_on_several_machines_are_refused_at_once(bench: Bench) -> None:
    before = specs(bench)
    with bench.changed({"API_BIND_ADDRESS": "127.0.0.1", "POSTGRES_INSTANCES": "2"}):
        refused = bench.make("swarm-apply")
    assert refused.exit_code == 2
    assert "API_BIND_ADDRESS=127.0.0.1: on several machines it must be 0.0.0.0" in refused.stderr
    assert "POSTGRES_INSTANCES=2" in refused.stderr
    assert specs(bench) == before


def test_networks_that_are_there_keep_their_option(bench: Bench) -> None:
    before = specs(bench)
    with bench.changed({"SWARM_ENCRYPTED": "yes"}):
        refused = bench.make("swarm-apply")
    assert refused.exit_code == 2
    assert "its networks were made with SWARM_ENCRYPTED=no, not yes" in refused.stderr
    assert specs(bench) == before


def test_an_image_that_a_node_lacks_is_named_and_brought(bench: Bench) -> None:
    before, images = specs(bench), images_of(bench)
    bench.new_image("app")
    refused = bench.make("swarm-apply")
    assert refused.exit_code == 2
    for node in NODES[1:]:
        assert f"{node} lacks sluice-app:" in refused.stderr
    assert specs(bench) == before
    assert bench.make("swarm-images").exit_code == 0
    assert images_of(bench) == images, "images alone change no service"


def test_a_new_image_of_the_app_goes_out_without_a_failed_request(bench: Bench) -> None:
    """The image of the test before is there; each api replica has a successor first."""
    before = images_of(bench)
    sql = BenchSql(bench)
    with load(bench, NODES[0]) as callers:
        done = bench.make("swarm-apply")
    assert done.exit_code == 0, done.text
    bench.wait_whole()
    changed = {name for name, image in images_of(bench).items() if image != before[name]}
    assert changed == {f"{STACK}_api", f"{STACK}_worker"}
    oracle.check_no_failure(callers)
    oracle.check_writes(callers, sql)


def test_changed_settings_are_applied_without_a_failed_request(bench: Bench) -> None:
    sql = BenchSql(bench)
    with (
        bench.changed({"PGBOUNCER_MAX_CLIENT_CONNECTIONS": "410", "API_LOG_LEVEL": "WARNING"}),
        load(bench, NODES[1]) as callers,
    ):
        done = bench.make("swarm-apply")
        assert done.exit_code == 0, done.text
        assert "updating: pgbouncer" in done.stderr
        assert "updating: api" in done.stderr
        assert "postgres" not in done.stderr.split("updating:", 1)[1]
    oracle.check_no_failure(callers)
    oracle.check_writes(callers, sql)
    back = bench.make("swarm-apply")
    assert back.exit_code == 0, back.text
    bench.wait_whole()


def test_the_instances_are_updated_one_after_the_other_behind_a_switchover(bench: Bench) -> None:
    sql = BenchSql(bench)
    before = poll(bench.primary, seconds=OUTAGE_SECONDS, what="an instance is the primary")
    with (
        bench.changed({"POSTGRES_STORAGE": "hdd"}),
        load(bench, NODES[2]) as callers,
    ):
        done = bench.make("swarm-apply")
        assert done.exit_code == 0, done.text
    assert done.stderr.count("updating") == 1, done.text
    assert sql.value("SHOW random_page_cost") == "4"
    assert bench.primary() != before, "the primary is the last one, after a switchover"
    # Clients wait; on a machine this full, one may reach its deadline.
    oracle.check_answers(callers.samples)
    oracle.check_writes(callers, sql)
    bench.wait_whole()


def test_the_number_of_pgbouncers_is_changed_and_changed_back(bench: Bench) -> None:
    sql = BenchSql(bench)
    with bench.changed({"PGBOUNCER_REPLICAS": "3"}), load(bench, NODES[1]) as callers:
        done = bench.make("swarm-apply")
        assert done.exit_code == 0, done.text
    bench.wait_whole()
    assert bench.services()[f"{STACK}_pgbouncer"] == "3/3"
    oracle.check_answers(callers.samples)
    oracle.check_writes(callers, sql)
    back = bench.make("swarm-apply")
    assert back.exit_code == 0, back.text
    bench.wait_whole()
    assert bench.services()[f"{STACK}_pgbouncer"] == "2/2"


@pytest.mark.parametrize("role", ["standby", "primary"])
def test_a_lost_node_loses_no_write_and_comes_back_by_itself(
    bench: Bench, role: str, record_property: Callable[[str, object], None]
) -> None:
    sql = BenchSql(bench)
    primary = poll(bench.primary, seconds=OUTAGE_SECONDS, what="an instance is the primary")
    lost = primary if role == "primary" else next(one for one in NODES[::-1] if one != primary)
    others = [one for one in NODES if one != lost]
    with load(bench, others[0]) as callers:
        under_way = submitted(bench, others[1])
        bench.kill(lost)
        killed = time.monotonic()
        poll(
            lambda: any(one.status == 202 and one.started > killed + 1 for one in callers.samples),
            seconds=OUTAGE_SECONDS,
            what="a write is acknowledged again",
        )
        recovered = time.monotonic()
        for node in others:
            assert finished(bench, node)["status"] == "succeeded"
        check_whole(bench, others[1], under_way, sql)
        bench.start(lost)
        bench.wait_whole()
    record_property("seconds_without_writes", round(recovered - killed, 1))
    # What an api had in hand that went with its node has no answer, until HAProxy misses that one.
    cut = [
        one
        for one in callers.samples
        if not one.status and one.started < killed + MISSED_SECONDS and one.ended > killed
    ]
    assert len(cut) <= LOAD_THREADS, oracle.describe(cut)
    oracle.check_answers(one for one in callers.samples if one not in cut)
    oracle.check_writes(callers, sql)
    oracle.check_nothing_left(sql)
    assert finished(bench, lost)["status"] == "succeeded"


def test_down_removes_the_stack_and_keeps_the_data(bench: Bench) -> None:
    assert bench.make("swarm-down").exit_code == 0
    assert bench.services() == {}
    volumes = bench.on(bench.manager, "volume", "ls", "--quiet").stdout.split()
    assert f"{STACK}_postgres-data" in volumes
    assert f"{STACK}_secrets" in volumes
    again = bench.make("swarm-down")
    assert again.exit_code != 0
    assert f"swarm: no stack {STACK} is deployed" in again.stderr
