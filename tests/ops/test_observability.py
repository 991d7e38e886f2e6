"""The profile on the running stack: targets, budget, dashboards, alerts that faults make fire."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from infra.ops.waiting import gone, wait_until
from tests import command
from tests.fix_api import ASSESSMENTS, Api, assessment_body
from tests.fix_faults import MakeLoad, frozen, wait_for_traffic
from tests.fix_observability import SERVICES, Observers
from tests.fix_ops import Commands
from tests.fix_sql import Sql
from tests.fix_stack import REPOSITORY, Stack, poll, run_in
from tests.ops.test_logs import locked_table

pytestmark = pytest.mark.slow

FIRED_SECONDS = 90
# What Grafana puts there; the fixture has everything scraped once a second.
RATE_INTERVAL = "30s"
# The longest window of what must be over is a minute; Alertmanager waits for another 12 s.
RESOLVED_SECONDS = 180
# Beyond the transactions that any client may have here: 15 s, of a batch deadline of 20 s.
LOCK_SECONDS = 120
WARNINGS = {
    "SluiceBlockedSessions",
    "SluiceCheckpointPressure",
    "SluiceClientsWaiting",
    "SluiceConnectionsNearLimit",
    "SluiceLeak",
    "SluiceLongTransaction",
    "SluicePoolSaturated",
}
CRITICAL = {"SluiceErrorsBudget", "SluiceLatencyBudget", "SluiceMaxWait"}
LOCKED = {(one, "warning") for one in WARNINGS} | {(one, "critical") for one in CRITICAL}
STOPPED = {
    ("SluiceDeadlineCuts", "warning"),
    ("SluiceTargetDown", "warning"),
    ("SluicePostgresDown", "critical"),
    ("SluiceReplicasMissing", "critical"),
}


def test_every_target_is_up_and_scraped_as_its_own(stack: Stack, observers: Observers) -> None:
    def all_up() -> bool:
        return all(
            len(found := observers.targets(job)) == count and set(found.values()) == {"up"}
            for job, count in wanted.items()
        )

    wanted = {"api": 1, "postgres": 1, "prometheus": 1, "alertmanager": 1}
    wanted |= {job: len(stack.containers(job)) for job in ("worker", "pgbouncer")}
    poll(all_up, seconds=60, what="every target is up")
    assert set(observers.targets("pgbouncer")) == {"pgbouncer-1", "pgbouncer-2"}


def test_how_near_the_limit_is_is_one_query(
    stack: Stack, settings: dict[str, str], observers: Observers
) -> None:
    query = "sluice_connections_used / sluice_connections_limit"
    # Two pools of the app; clients and three entries of each replica; the server's sessions.
    expected = 2 + len(stack.containers("pgbouncer")) * (1 + 3) + 1
    found = poll(
        lambda: len(rows := observers.query(query)) == expected and rows,
        seconds=60,
        what=f"{expected} shares of limits",
    )
    assert all(0 <= float(one["value"][1]) <= 1 for one in found or [])
    sessions = observers.value('sluice_connections_limit{tier="postgres"}')
    assert sessions == float(settings["POSTGRES_MAX_CONNECTIONS"])
    assert (observers.value('sluice_connections_used{tier="postgres"}') or 0) > 0


def test_a_target_comes_and_goes_with_its_replica(ops: Commands, observers: Observers) -> None:
    for count in (3, 2):
        done = ops.script("scale-pgbouncer", str(count), env=observers.env)
        assert done.exit_code == 0, done.text
        wanted = {f"pgbouncer-{number + 1}": "up" for number in range(count)}
        poll(
            lambda wanted=wanted: observers.targets("pgbouncer") == wanted,  # type: ignore[misc]
            seconds=60,
            what=f"{count} targets",
        )


def test_its_containers_are_hardened_and_reach_what_they_read_only(
    stack: Stack, observers: Observers
) -> None:
    networks = {
        "prometheus": {"metrics", "control", "observers"},
        "alertmanager": {"metrics", "observers"},
        "postgres-exporter": {"metrics", "db"},
        "pgbouncer-exporter": {"metrics", "pool"},
        "console": {"metrics", "pool", "db", "control", "observers"},
    }
    for service in SERVICES:
        container = stack.container(service)
        host = container.attrs["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == (True, ["ALL"], None)
        assert host["Memory"] > 0
        assert int(run_in(container, ["id", "-u"])[1]) >= 10076
        found = container.attrs["NetworkSettings"]
        assert set(found["Networks"]) == {f"{stack.project}_{one}" for one in networks[service]}
        published = [one for ports in found["Ports"].values() for one in ports or []]
        assert {one["HostIp"] for one in published} <= {"127.0.0.1"}
        assert bool(published) == ("observers" in networks[service])
        poll(lambda one=container: stack.health(one) == "healthy", seconds=60, what=service)  # type: ignore[misc]
    assert stack.client.networks.get(f"{stack.project}_metrics").attrs["Internal"]


def test_rules_follow_the_env_file_live(ops: Commands, stack: Stack, observers: Observers) -> None:
    before = {one: stack.container(one).attrs["State"]["StartedAt"] for one in SERVICES}
    limit = 'sluice_connections_limit{kind="clients", replica="pgbouncer-1"}'
    for size in (900, 1000):
        done = ops.script("apply", env=observers.env.set(PGBOUNCER_MAX_CLIENT_CONNECTIONS=size))
        assert done.exit_code == 0, done.text
        poll(
            lambda size=size: observers.value(limit) == size,  # type: ignore[misc]
            seconds=30,
            what=f"a limit of {size} in the rules",
        )
    assert {one: stack.container(one).attrs["State"]["StartedAt"] for one in SERVICES} == before


def test_new_passwords_and_certificates_are_taken_without_a_restart(
    ops: Commands, observers: Observers
) -> None:
    expires = 'sluice_certificate_expiry_timestamp_seconds{certificate="postgres"}'
    before = observers.value(expires)
    done = ops.run("rotate", "passwords", env_dir=observers.env.path)
    assert done.exit_code == 0, done.text
    done = ops.script("rotate-certificates", env=observers.env)
    assert done.exit_code == 0, done.text
    assert before is not None
    poll(
        lambda: (observers.value(expires) or 0) > before,
        seconds=30,
        what="the rules have the new certificate's end",
    )
    # Each scrape of these logs in anew.
    now = observers.value("vector(time())")
    for metric, count in (('pg_scrape_collector_success{collector="wal"}', 1), ("pgbouncer_up", 2)):
        query = f"count({metric} == 1 and timestamp({metric}) > {now}) == {count}"
        poll(lambda query=query: observers.query(query), seconds=60, what=query)  # type: ignore[misc]


@contextmanager
def locked_tables(stack: Stack, sql: Sql) -> Iterator[None]:
    """Hold a migration's lock on the tables that every request reads, as the superuser."""
    statement = (
        "SET application_name = 'locker'; BEGIN; LOCK TABLE risk.assessments, risk.tasks; "
        f"SELECT pg_sleep({LOCK_SECONDS})"
    )
    postgres = stack.container("postgres")
    words = ("psql", "--no-psqlrc", "--username=postgres", "--dbname=risk", "--command", statement)
    holder = command.start("docker", "exec", str(postgres.name), *words)
    try:
        yield
    finally:
        sql.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'locker'"
        )
        command.finished(holder, seconds=30)


@pytest.mark.usefixtures("whole_again")
def test_alerts_fire_by_their_real_faults_reach_the_receiver_and_resolve(
    stack: Stack, sql: Sql, make_load: MakeLoad, observers: Observers
) -> None:
    """A lock on the tables and needless checkpoints; then both tiers below the app gone."""

    def not_fired(wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the alerts that the receiver was never told to fire within that time.

        They need not fire together: checkpoints are over after a minute.
        """
        fired: set[tuple[str, str]] = set()

        def others() -> list[tuple[str, str]]:
            fired.update(key for key, status in observers.notices().items() if status == "firing")
            return sorted(wanted - fired)

        return wait_until(others, gone, seconds=FIRED_SECONDS, every=0.5)

    def not_resolved(wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
        def others() -> list[tuple[str, str]]:
            notices = observers.notices()
            return sorted(one for one in wanted if notices.get(one) != "resolved")

        return wait_until(others, gone, seconds=RESOLVED_SECONDS, every=0.5)

    with make_load(threads=24) as load:
        wait_for_traffic(load)
        with locked_tables(stack, sql):
            # An increase is seen from the first scrape on.
            poll(
                lambda: observers.query("pg_stat_checkpointer_num_requested_total"),
                seconds=30,
                what="a scrape of what checkpoints there were",
            )
            # As an apply does. What fires next is dropped, and has to be sent again in time.
            stack.container("prometheus").kill("HUP")
            for _ in range(5):
                sql.rows("CHECKPOINT")
            assert not_fired(LOCKED) == []
        postgres = stack.container("postgres")
        with frozen(stack.containers("pgbouncer")):
            postgres.stop()
            try:
                assert not_fired(STOPPED) == []
            finally:
                postgres.start()
    assert not_resolved(LOCKED | STOPPED) == []
    assert observers.notices()["SluiceWatchdog", "none"] == "firing"


def queries() -> dict[str, str]:
    """Return the query of each line of each panel, by where it stands."""
    found = {}
    for file in sorted((REPOSITORY / "infra" / "observability" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                where = f"{file.stem}: {panel['title']}: {target['legendFormat']}"
                found[where] = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
    return found


def test_every_query_of_the_dashboards_has_data(observers: Observers, api: Api) -> None:
    wanted = queries()
    assert len(wanted) > 40
    # Something to look at: requests, tasks, transactions.
    api.run(assessment_body())

    def empty() -> list[str]:
        return [where for where, query in wanted.items() if not observers.query(query)]

    # Rates need two scrapes. A failure names the queries without data.
    missing = ["not asked yet"]

    def none_is_empty() -> bool:
        missing[:] = empty()
        return not missing

    with suppress(pytest.fail.Exception):
        poll(none_is_empty, seconds=60, what="data", every=2)
    assert missing == []


def test_no_metric_has_the_id_of_a_request(
    observers: Observers, stack: Stack, sql: Sql, api: Api
) -> None:
    request, seen = uuid.uuid4().hex, threading.Event()

    def call() -> None:
        # Each waits for the lock for some seconds only.
        while not seen.is_set():
            api.http.post(ASSESSMENTS, json=assessment_body(), headers={"X-Request-ID": request})

    caller = threading.Thread(target=call)
    # A transaction that is seen by a scrape.
    with locked_table(stack, sql):
        caller.start()
        try:
            poll(
                lambda: observers.query(
                    'pg_stat_activity_count{application_name="sluice-api/submit"}'
                ),
                seconds=30,
                what="the exporter reads sluice.pg_stat_activity (its search_path), without ids",
            )
        finally:
            seen.set()
    caller.join(30)
    assert observers.query('{__name__=~"pg_.*", application_name=~".*/.*/.*"}') == []
