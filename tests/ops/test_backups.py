"""Backups of the running stack: what was committed comes back, and what cannot is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.command import Done, run
from tests.fix_api import Api, assessment_body
from tests.fix_faults import MakeLoad, wait_for_traffic
from tests.fix_host import EnvFile
from tests.fix_ops import Commands
from tests.fix_sql import Sql
from tests.fix_stack import Stack, poll, run_in

TABLE = "public.restore_probe"
WRITE_SECONDS = 12.0
EVERY_SECONDS = 0.1
MOMENTS = 5
REPOSITORY = "/var/lib/pgbackrest"


def make(*arguments: str) -> Done:
    """Run a make target as the documents have it."""
    return run("make", *arguments, seconds=300)


@pytest.fixture(scope="module")
def first_backup(stack: Stack) -> None:
    """Return once the service has made its first backup; a fresh stack's is under way."""

    def is_made() -> bool:
        return bool(make("backups", "JSON=yes").document["backups"])

    poll(is_made, seconds=120, every=1.0, what="the first backup")


@pytest.fixture(scope="module")
def recent_backup(first_backup: None) -> None:
    """Make a backup: each restore replays what was written since, of a long suite gigabytes."""
    done = make("backup", "TYPE=full")
    assert done.exit_code == 0, done.text


@pytest.fixture
def probe(sql: Sql) -> Iterator[str]:
    """Return a table that is there for the test only."""
    sql.rows(f"CREATE TABLE {TABLE} (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    yield TABLE
    sql.rows(f"DROP TABLE IF EXISTS {TABLE}")


@pytest.fixture
def volumes(stack: Stack) -> Iterator[list[str]]:
    """Return a list of volumes that are removed after the test, with what a swap has put aside."""
    before = set(volumes_of(stack))
    named: list[str] = []
    yield named
    aside = f"{stack.project}_postgres-data-"
    made = {one for one in volumes_of(stack) if one.startswith(aside)} - before
    for one in stack.client.volumes.list():
        if one.name in {*named, *made}:
            one.remove(force=True)


def archived(sql: Sql) -> None:
    """Return once everything that is committed is in the repository."""
    (row,) = sql.rows("SELECT pg_walfile_name(pg_switch_wal()) AS segment")
    # NULL after a crash of the server, until it has archived the next one.
    last = "SELECT coalesce(last_archived_wal, '0') FROM pg_stat_archiver"
    poll(
        lambda: sql.value(last) >= row["segment"],
        seconds=30,
        what=f"{row['segment']} is archived",
    )


def commit_each_100_ms(stack: Stack) -> list[tuple[float, float]]:
    """Commit rows one by one in one session; return between which moments each was committed."""
    now = "SELECT extract(epoch FROM clock_timestamp());"
    script = (
        f"for _ in $(seq {int(WRITE_SECONDS / EVERY_SECONDS)}); do "
        f"echo '{now} INSERT INTO {TABLE} VALUES (DEFAULT); {now}'; sleep {EVERY_SECONDS}; done"
        " | psql --no-psqlrc --quiet --no-align --tuples-only --dbname=risk"
    )
    code, text = run_in(stack.container("postgres"), ["bash", "-c", script])
    assert code == 0, text
    moments = [float(line) for line in text.split()]
    return list(zip(moments[::2], moments[1::2], strict=True))


def between_commits(commits: list[tuple[float, float]]) -> datetime:
    """Return a random moment at which no commit was under way, in whole milliseconds."""
    while True:
        moment = round(random.SystemRandom().uniform(commits[0][1], commits[-1][0]), 3)
        if not any(began - 0.001 <= moment <= ended + 0.001 for began, ended in commits):
            return datetime.fromtimestamp(moment, UTC)


def rows_restored(done: Done) -> int:
    """Return how many rows the table has in what was restored."""
    (command,) = done.document["commands"]
    found = command["document"]["restored"]["found"]
    (table,) = [one for one in found if one["table"] == TABLE]
    assert table["exact"]
    return int(table["rows"])


@pytest.mark.slow
def test_a_lost_data_volume_comes_back_as_it_was_at_any_stated_moment(
    stack: Stack, sql: Sql, api: Api, recent_backup: None, probe: str, volumes: list[str]
) -> None:
    final = api.run(assessment_body())
    commits = commit_each_100_ms(stack)
    assert len(commits) == WRITE_SECONDS / EVERY_SECONDS
    archived(sql)
    try:
        # The disaster.
        for service in ("postgres", "backup"):
            stack.container(service).remove(force=True)
        stack.client.volumes.get(f"{stack.project}_postgres-data").remove()
        for number in range(MOMENTS):
            moment = between_commits(commits)
            expected = sum(ended <= moment.timestamp() for _, ended in commits)
            volume = f"{stack.project}_moment-{number}"
            volumes.append(volume)
            done = make("restore", f"TO={moment.isoformat(sep=' ')}", f"INTO={volume}", "JSON=yes")
            assert done.exit_code == 0, done.text
            assert rows_restored(done) == expected, (moment, commits)
    finally:
        # And all of it, in the place of what was lost; whatever failed, other tests need a server.
        done = make("restore", "SWAP=yes", "JSON=yes")
        # Not --wait: what has been without its server is unhealthy for a moment longer.
        up = stack.compose("up", "--detach")
    assert done.exit_code == 0, done.text
    assert up.exit_code == 0, up.text
    stack.wait_healthy(seconds=120)
    assert int(sql.value(f"SELECT count(*) FROM {TABLE}")) == len(commits)
    assert api.status(final["assessment_id"]) == final
    poll(
        lambda: api.http.get("/health/ready").status_code == 200, seconds=60, what="the api serves"
    )


@pytest.mark.slow
def test_a_running_server_gets_the_restored_data_and_keeps_its_own(
    stack: Stack, sql: Sql, recent_backup: None, probe: str, volumes: list[str]
) -> None:
    volume = f"{stack.project}_restored"
    volumes.append(volume)
    sql.rows(f"INSERT INTO {TABLE} VALUES (DEFAULT)")
    done = make("restore", f"INTO={volume}")
    assert done.exit_code == 0, done.text
    assert "as they must be" in done.stdout
    sql.rows(f"INSERT INTO {TABLE} VALUES (DEFAULT)")
    began = datetime.now(UTC)
    done = make("restore-swap", f"FROM={volume}")
    assert done.exit_code == 0, done.text
    assert sql.value(f"SELECT count(*) FROM {TABLE}") == "1"
    # Once only: what is in the volume now are the data from before.
    again = make("restore-swap", f"FROM={volume}")
    assert "Error 3" in again.text
    assert "nothing that make restore has finished" in again.text

    # Another timeline: the service begins it with a full backup, and the log goes on.
    def is_full() -> bool:
        last = make("backups", "JSON=yes").document["backups"][-1]
        return last["type"] == "full" and datetime.fromisoformat(last["stopped"]) > began

    poll(is_full, seconds=360, every=2.0, what="a full backup of the new timeline")
    assert make("verify-backup").exit_code == 0
    status = make("status", "JSON=yes").document
    assert status["server"]["outside"] == []
    assert status["server"]["backups"]["error"] == ""


def volumes_of(stack: Stack) -> list[str]:
    """Return the volumes of this stack, and what was restored beside it."""
    names = [one.name for one in stack.client.volumes.list()]
    return sorted(name for name in names if name.startswith(f"{stack.project}_"))


REFUSED = [
    (("--to", "yesterday"), 2, "TO=yesterday is no moment"),
    (("--to", "2026-11-24 10:00:00"), 2, "has no time zone"),
    (("--to", "2001-01-01 00:00:00+00"), 3, "the earliest moment that a restore can go back to"),
    (("--to", "2101-01-01 00:00:00+00"), 3, "is in the future"),
    (("--into", "../x"), 2, "is no name of a volume"),
    (("--into", "{project}_postgres-data"), 3, "is in use by"),
    (("--into", "{small}"), 3, "MB free, the restore takes"),
    (("--cluster", "1"), 3, "CLUSTER=1 is not in the repository"),
]


def test_a_refused_restore_says_why_and_touches_nothing(
    stack: Stack, sql: Sql, first_backup: None, volumes: list[str]
) -> None:
    small = f"{stack.project}_small"
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=16m,uid=10070,gid=10070"}
    stack.client.volumes.create(small, driver_opts=options)
    volumes.append(small)
    server = "SELECT pg_postmaster_start_time()"
    before = (sql.value(server), volumes_of(stack))
    containers = {one.id for one in stack.client.containers.list(all=True)}
    for arguments, code, reason in REFUSED:
        words = [one.format(project=stack.project, small=small) for one in arguments]
        done = run("infra/host/backup.sh", "restore", *words)
        assert (done.exit_code, reason in done.text) == (code, True), done.text
    done = run("infra/host/backup.sh", "swap", "not-there")
    assert (done.exit_code, "no such volume" in done.text) == (2, True)
    assert (sql.value(server), volumes_of(stack)) == before
    ours = {one.id for one in stack.containers("postgres") + stack.containers("backup")}
    assert ours <= containers


def verify_copy(stack: Stack, volume: str, damage: str) -> Done:
    """Damage a copy of the repository in a volume, and look at it."""
    image = stack.container("backup").attrs["Config"]["Image"]
    return run(
        *("docker", "run", "--rm", "--network", "none", "--user", "10070:10070", "--tmpfs=/tmp"),
        *("--volume", f"{stack.project}_postgres-config:/etc/sluice:ro"),
        *("--volume", f"{stack.project}_backups:/from:ro", "--volume", f"{volume}:{REPOSITORY}"),
        *("--entrypoint", "bash", image, "-euc"),
        f"rm -rf {REPOSITORY}/*; cp -a /from/. {REPOSITORY}; cd {REPOSITORY}; {damage}; "
        "cd /opt/sluice; exec python -m infra.backup verify --no-server",
    )


@pytest.mark.slow
def test_what_is_wrong_with_the_repository_is_found_by_name(
    stack: Stack, sql: Sql, first_backup: None, volumes: list[str]
) -> None:
    for _ in range(3):
        sql.rows("SELECT pg_logical_emit_message(false, 'test', 'a segment that is not empty')")
        archived(sql)
    volume = f"{stack.project}_damaged"
    volumes.append(volume)
    whole = verify_copy(stack, volume, "true")
    assert whole.exit_code == 0, whole.text

    bundle = "file=$(ls -d backup/sluice/*F/bundle/1 | tail -n 1); "
    bundle += "printf xxxxxxxxxxxxxxxx | dd of=$file bs=1 seek=30000 conv=notrunc status=none"
    corrupted = verify_copy(stack, volume, bundle)
    assert corrupted.exit_code == 1
    assert "invalid checksum" in corrupted.text
    assert "F/bundle/1" in corrupted.text

    # The last but one: the newest may still be on its way.
    segments = (
        "file=$(find archive -name '*.zst' -printf '%f %p\\n' | sort | tail -n 2 | head -n 1)"
    )
    segments += "; echo removed ${file%% *}; rm ${file#* }"
    segments += "; find archive -type f -exec touch -d '-10 minutes' {} +"
    gap = verify_copy(stack, volume, segments)
    (missing,) = re.findall(r"^removed ([0-9A-F]{24})", gap.stdout, re.MULTILINE)
    assert gap.exit_code == 1
    assert f"segment {missing} of the log is missing" in gap.text

    full = f"{stack.project}_full"
    size = run_in(stack.container("backup"), ["du", "--summarize", "--block-size=1M", REPOSITORY])
    megabytes = int(size[1].split()[0]) + 32
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={megabytes}m,uid=10070,gid=10070"}
    stack.client.volumes.create(full, driver_opts=options)
    volumes.append(full)
    filled = verify_copy(stack, full, "true")
    assert filled.exit_code == 1
    assert "the repository is full" in filled.text


@pytest.mark.slow
def test_a_backup_under_load_fails_no_request(make_load: MakeLoad, first_backup: None) -> None:
    with make_load() as load:
        wait_for_traffic(load)
        done = make("backup", "TYPE=full")
        wait_for_traffic(load, len(load.of()) + 20)
    assert done.exit_code == 0, done.text
    assert [one for one in load.samples if one.status not in (200, 202)] == []


@pytest.mark.slow
def test_a_drill_measures_recovery_point_and_time_and_status_has_them(
    stack: Stack, ops: Commands, env_file: EnvFile, applied_again: None, first_backup: None
) -> None:
    env_file.set(BACKUP_ARCHIVE_TIMEOUT_SECONDS=5)
    assert ops.run("apply").exit_code == 0
    # After a clean start the checkpointer sleeps, and with it archive_timeout, until it is woken.
    stack.container("postgres").restart()
    stack.wait_healthy()
    done = make("drill")
    assert done.exit_code == 0, done.text
    assert "recovery point:" in done.stderr
    assert "recovery time:" in done.stderr
    backups = make("status", "JSON=yes").document["server"]["backups"]
    assert 0 < backups["drill_point_seconds"] < 60
    assert 0 < backups["drill_recovery_seconds"] < 120
    assert backups["drill_age_seconds"] < 60


def test_the_key_of_the_backups_can_be_kept_elsewhere(stack: Stack) -> None:
    done = make("backup-key")
    assert done.exit_code == 0, done.text
    code, text = run_in(stack.container("postgres"), ["cat", "/etc/sluice/backup.key"])
    assert (code, done.stdout.strip()) == (0, text.strip())
