"""What POSTGRES_INSTANCES=3 promises: no acknowledged write is lost, reads go on, one primary.

One stack of its own serves all tests, in their order: it begins with one server, whose data the
first of three takes over.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.config import envfile
from tests import command
from tests.command import Done
from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_faults import hold, wait_for_traffic
from tests.fix_sql import Row
from tests.fix_stack import REPOSITORY, poll

pytestmark = pytest.mark.slow

PROJECT, PORT = "sluice-test-ha", 18088
INSTANCES = ("postgres-1", "postgres-2", "postgres-3")
# Patroni takes a node for lost after ttl; then as after the loss of a process. Promises of 8 s and
# of 5 s on a machine of its own; this one has all the other tests.
TTL_SECONDS, TAKES_OVER_SECONDS = 20, 16
PROCESS_SECONDS = 10
DEADLINE_SECONDS = 10.0
SIZES = {
    "API_PORT": PORT,
    "POSTGRES_MEMORY_MB": 384,
    "POSTGRES_MAX_CONNECTIONS": 48,
    "POSTGRES_MAX_WAL_MB": 128,
    "POSTGRES_CPUS": 1.0,
    "WORKER_REPLICAS": 1,
}


@dataclass(frozen=True)
class Cluster:
    """The stack, and the commands that an operator gives it."""

    env_dir: Path

    def make(self, *arguments: str, seconds: float = 300) -> Done:
        """Run a make target on it."""
        tag = os.environ.get("SLUICE_IMAGE_TAG", "latest")
        variables = {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "SLUICE_ENV_DIR": str(self.env_dir),
            # Compose writes the service that builds an image into it: not into the others' images.
            "SLUICE_IMAGE_TAG": f"{tag}-ha",
        }
        return command.run("make", *arguments, env=variables, seconds=seconds)

    def set(self, **changes: object) -> None:
        """Change the env file."""
        path = self.env_dir / "stack.env"
        path.write_text(envfile.edit(path.read_text(encoding="utf-8"), changes), encoding="utf-8")

    def docker(self, *arguments: str, seconds: float = 60) -> str:
        """Run a docker command that must succeed; return what it printed."""
        done = command.run("docker", *arguments, seconds=seconds)
        assert done.exit_code == 0, done.text
        return done.stdout.strip()

    def status(self) -> dict[str, Any]:
        """Return what make status knows."""
        return self.make("status", "JSON=yes").document

    def primary(self) -> str:
        """Return the instance that takes writes, once every other follows it."""

        def found() -> str:
            every = self.status()["instances"]
            states = sorted(str(one["state"]) for one in every)
            whole = states == ["running", "streaming", "streaming"]
            return next((one["name"] for one in every if one["role"] == "primary" and whole), "")

        return poll(found, seconds=120, what="a primary that two follow", every=1.0)

    # What the oracle asks for.
    def rows(self, statement: str) -> list[Row]:
        """Return the rows of a statement on the primary, as text."""
        return list(csv.DictReader(io.StringIO(self.psql(self.primary(), statement))))

    def value(self, statement: str) -> str:
        """Return the single value of a statement."""
        ((value,),) = (row.values() for row in self.rows(statement))
        return str(value)

    def psql(self, instance: str, statement: str, *, seconds: float = 60) -> str:
        """Return what a statement gives on one instance, as CSV."""
        arguments = ("psql", "-X", "--csv", "-d", "risk", "-c", statement)
        return self.docker("exec", container(instance), *arguments, seconds=seconds)

    def load(self) -> Load:
        """Return load for its api."""
        return Load(f"http://127.0.0.1:{PORT}", threads=4)


def container(service: str) -> str:
    return f"{PROJECT}-{service}-1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return three servers that were made of one with an assessment in it."""
    home = tmp_path_factory.mktemp("ha") / "env"
    shutil.copytree(REPOSITORY / "infra" / "env", home, ignore=shutil.ignore_patterns("clients"))
    made = Cluster(home)
    made.set(**SIZES)
    try:
        for arguments in (["up"], ["assess"]):
            assert (done := made.make(*arguments, seconds=600)).exit_code == 0, done.text
        made.set(POSTGRES_INSTANCES=3)
        assert (done := made.make("build", seconds=600)).exit_code == 0, done.text
        done = made.make("apply", "RESTART=yes", seconds=600)
        assert done.exit_code == 0, done.text
        yield made
    finally:
        gone = made.make("destroy", "CONFIRM=yes")
        tag = f"{os.environ.get('SLUICE_IMAGE_TAG', 'latest')}-ha"
        images = command.run("docker", "images", "--quiet", f"sluice-*:{tag}").stdout.split()
        command.run("docker", "rmi", "--force", *images)
        assert gone.exit_code == 0, gone.text


def check(cluster: Cluster, load: Load, since: float, gap_seconds: float) -> None:
    """Check all that must hold after the loss of a primary."""
    oracle.check_writes(load, cluster)  # type: ignore[arg-type]  # it asks for rows only
    oracle.check_deadlines(load, DEADLINE_SECONDS)
    oracle.check_answers(load.samples)
    assert oracle.writes_gap(load, since) <= gap_seconds
    refused = [one for one in load.of("status", "results") if one.status != 200]
    assert not refused, oracle.describe(refused)


def test_the_first_of_three_has_the_data_of_the_single_server(cluster: Cluster) -> None:
    assert cluster.primary() == "postgres-1"
    counts = {
        cluster.psql(one, "SELECT count(*) FROM risk.assessments WHERE finished_at IS NOT NULL")
        for one in INSTANCES
    }
    assert counts == {"count\n1"}
    assert cluster.status()["bottleneck"]["where"] == "none"


def test_a_switchover_fails_no_request(cluster: Cluster) -> None:
    before = cluster.primary()
    with cluster.load() as load:
        wait_for_traffic(load)
        done = cluster.make("switchover", "JSON=yes")
        assert done.exit_code == 0, done.text
        wait_for_traffic(load, len(load.of()) + 20)
    oracle.check_no_failure(load)
    assert cluster.primary() != before
    (document,) = (one["document"] for one in done.document["commands"])
    assert 0 < document["paused_seconds"] < PROCESS_SECONDS


# Offers the archive a segment, with a last byte of its own; waits until it is done with.
OFFER = """
cd "$PGDATA/pg_wal"
[[ -e $1 ]] || cp "$(ls | grep -E '^[0-9A-F]{24}$' | head -n 1)" "$1"
printf %s "$2" | dd of="$1" bs=1 seek=16777215 conv=notrunc status=none
rm -f "archive_status/$1.done"
touch "archive_status/$1.ready"
psql -qXAt --command "SELECT pg_logical_emit_message(false, 'test', 'for another segment')" \\
    --command 'SELECT pg_switch_wal()' >/dev/null
for _ in {1..40}; do
    [[ -e archive_status/$1.ready ]] || exit 0
    sleep 0.5
done
exit 1
"""


def test_what_two_servers_have_of_the_end_of_a_timeline_does_not_stop_the_archive(
    cluster: Cluster,
) -> None:
    def run(instance: str, script: str, *arguments: str) -> Done:
        words = ("exec", container(instance), "bash", "-euc", script, "-", *arguments)
        return command.run("docker", *words, seconds=60)

    first = cluster.primary()
    last = run(first, 'tail -n 1 "$(ls "$PGDATA"/pg_wal/*.history | tail -n 1)"').stdout.split()
    high, low = (int(part, 16) for part in last[1].split("/"))
    segment = f"{int(last[0]):08X}{high:08X}{low >> 24:08X}"
    # Each has bytes of its own behind the end. Whether both offer it is up to their checkpoints.
    assert (done := run(first, OFFER, segment, "1")).exit_code == 0, done.text
    assert (done := cluster.make("switchover")).exit_code == 0, done.text
    assert (done := run(cluster.primary(), OFFER, segment, "2")).exit_code == 0, done.text


def test_the_loss_of_the_primary_s_process_loses_no_write(cluster: Cluster) -> None:
    lost = cluster.primary()
    with cluster.load() as load:
        wait_for_traffic(load)
        began = time.monotonic()
        kill = "kill -KILL $(head -n 1 $PGDATA/postmaster.pid)"
        cluster.docker("exec", container(lost), "bash", "-c", kill)
        hold(2 * PROCESS_SECONDS)
    check(cluster, load, began, PROCESS_SECONDS)


def test_a_primary_that_is_cut_off_takes_no_write_and_follows_when_it_is_back(
    cluster: Cluster,
) -> None:
    # By each of them it would reach the others.
    networks = tuple(f"{PROJECT}_{name}" for name in ("db", "etcd", "backups"))
    lost = cluster.primary()

    def write(key: str) -> Done:
        """Write inside it, as a superuser, whom no network keeps away."""
        statement = (
            "INSERT INTO risk.assessments SELECT (jsonb_populate_record(a, jsonb_build_object("
            f"'assessment_id', gen_random_uuid(), 'idempotency_key', '{key}'))).*"
            " FROM risk.assessments AS a LIMIT 1"
        )
        options = ("--env", "PGOPTIONS=-c statement_timeout=8s", container(lost))
        return command.run("docker", "exec", *options, "psql", "-Xd", "risk", "-c", statement)

    try:
        with cluster.load() as load:
            wait_for_traffic(load)
            began = time.monotonic()
            for network in networks:
                cluster.docker("network", "disconnect", network, container(lost))
            in_doubt = write("cut-off-at-first")
            hold(TTL_SECONDS + TAKES_OVER_SECONDS + 4)
            refused = write("cut-off-later")
    finally:
        for network in networks:
            # It fails where the network was never left.
            command.run("docker", "network", "connect", "--alias", lost, network, container(lost))
    assert "canceling wait for synchronous replication" in in_doubt.text or in_doubt.exit_code
    assert refused.exit_code != 0, refused.text
    check(cluster, load, began, TTL_SECONDS + TAKES_OVER_SECONDS)
    assert cluster.primary() != lost
    # The one in doubt may have come by the archive of the log before the standby took over: then
    # all have it.
    keys = "SELECT idempotency_key FROM risk.assessments WHERE idempotency_key LIKE 'cut-off%'"
    found = {cluster.psql(one, keys) for one in INSTANCES}
    assert found <= {"idempotency_key", "idempotency_key\ncut-off-at-first"}
    assert len(found) == 1
    # It has no tasks, which a restore would find.
    clear = "DELETE FROM risk.assessments WHERE idempotency_key LIKE 'cut-off%'"
    cluster.psql(cluster.primary(), clear)


def test_etcd_without_a_quorum_is_named_and_nothing_stops(cluster: Cluster) -> None:
    leader, lost = cluster.primary(), [container(one) for one in ("etcd-1", "etcd-2")]
    cluster.docker("stop", "--time", "1", *lost)
    try:
        with cluster.load() as load:
            hold(TTL_SECONDS + TAKES_OVER_SECONDS)
            verdict = cluster.status()["bottleneck"]
        oracle.check_no_failure(load)
    finally:
        cluster.docker("start", *lost)
    assert verdict["where"] == "etcd"
    assert f"{leader} stays the primary" in verdict["line"]
    assert cluster.primary() == leader


def test_an_etcd_that_has_lost_its_volume_comes_back_as_a_new_member(cluster: Cluster) -> None:
    ask = [
        *("exec", container("etcd-1"), "etcdctl", "--endpoints", "https://localhost:2379"),
        *("--cacert", "/etc/sluice/etcd-ca.crt", "--cert", "/etc/sluice/etcd.crt"),
        *("--key", "/etc/sluice/etcd.key", "member", "list"),
    ]

    def member() -> list[str]:
        lines = [one.split(", ") for one in cluster.docker(*ask).splitlines()]
        return next((one for one in lines if one[3] == "https://etcd-2:2380"), [])

    before, leader = member(), cluster.primary()
    cluster.docker("rm", "--force", container("etcd-2"))
    cluster.docker("volume", "rm", f"{PROJECT}_etcd-data-2")
    assert (done := cluster.make("up")).exit_code == 0, done.text
    poll(
        lambda: (one := member()) and one[0] != before[0] and one[1:3] == ["started", "etcd-2"],
        seconds=60,
        what="another member in its place",
    )
    cluster.docker("exec", container("etcd-2"), "healthcheck")
    # It counts: without the first there is a majority still.
    cluster.docker("restart", "--time", "1", container("etcd-1"))
    assert cluster.primary() == leader


def test_backups_go_on_through_a_failover_and_a_restore_goes_back_to_before_it(
    cluster: Cluster,
) -> None:
    leader, table = cluster.primary(), "public.restore_probe"
    with cluster.load() as load:
        wait_for_traffic(load)
        done = cluster.make("backup", "TYPE=full")
    assert done.exit_code == 0, done.text
    oracle.check_no_failure(load)
    manifest = "from infra.backup.repository import ask, info; print(ask('repo-get', "
    manifest += "f'backup/sluice/{info().backups[-1].label}/backup.manifest'))"
    found = cluster.docker("exec", container("backup"), "python", "-c", manifest)
    assert "option-backup-standby=true" in found

    cluster.psql(leader, f"CREATE TABLE {table} AS SELECT generate_series(1, 10)")
    moment = cluster.psql(leader, "SELECT clock_timestamp()").splitlines()[-1]
    cluster.psql(leader, f"INSERT INTO {table} VALUES (11)")
    cluster.docker(
        "exec", container(leader), "bash", "-c", "kill -KILL $(head -n 1 $PGDATA/postmaster.pid)"
    )
    # At first Patroni has not noticed.
    follower = poll(
        lambda: one if (one := cluster.primary()) != leader else "",
        seconds=60,
        what="another primary",
    )
    assert cluster.psql(follower, f"SELECT count(*) FROM {table}") == "count\n11"
    done = cluster.make("backup", "TYPE=diff")
    assert done.exit_code == 0, done.text
    assert cluster.status()["server"]["backups"]["error"] == ""

    volume = f"{PROJECT}_before-the-failover"
    done = cluster.make("restore", f"TO={moment}", f"INTO={volume}", "JSON=yes")
    assert done.exit_code == 0, done.text
    (command_,) = done.document["commands"]
    restored = command_["document"]["restored"]["found"]
    assert [one["rows"] for one in restored if one["table"] == table] == [10]
    done = cluster.make("restore-swap", f"FROM={volume}")
    assert done.exit_code == 0, done.text
    assert cluster.psql(cluster.primary(), f"SELECT count(*) FROM {table}") == "count\n10"
    assert cluster.make("verify-backup").exit_code == 0
