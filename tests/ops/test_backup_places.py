"""Backups on another machine, over S3's protocol to rclone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker.errors
import pytest
from docker.models.containers import Container

from infra.backup.repository import CONFIG, STANZA
from tests.fix_ops import Commands, EnvDir
from tests.fix_secrets import Secrets
from tests.fix_stack import Stack, poll, run_in

# It judges who comes by the signature of each request.
SERVER = (
    "mkdir -p /place/sluice; openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=place "
    "-addext subjectAltName=DNS:place -keyout /tmp/key -out /tmp/cert; "
    "exec rclone serve s3 --addr :8443 --auth-key the-key-id,the-secret-of-it "
    "--cert /tmp/cert --key /tmp/key /place"
)


def read(container: Container, command: str) -> str:
    """Return what a command prints, once it succeeds."""

    def is_there() -> str:
        code, text = run_in(container, ["sh", "-c", command])
        return "" if code else text

    return poll(is_there, seconds=30, what=command)


def write_given(place: Container, directory: Path, secret: str) -> None:
    """Write what an operator gives `make backup-key`."""
    (directory / "backup.s3-key").write_text("the-key-id\n")
    (directory / "backup.s3-key-secret").write_text(f"{secret}\n")
    (directory / "backup.ca").write_text(read(place, "cat /tmp/cert"))


@pytest.fixture
def place(
    stack: Stack,
    ops: Commands,
    env: EnvDir,
    secrets: Secrets,
    drivers_image: str,
) -> Iterator[Container]:
    """Return a server for backups; afterwards the stack has its own repository again."""
    network = stack.client.networks.create(f"{stack.project}-place", internal=True)
    container = stack.client.containers.run(
        drivers_image,
        ["bash", "-euc", SERVER],
        network=network.name,
        detach=True,
        init=True,
        mem_limit="512m",
    )
    try:
        yield container
    finally:
        back = ops.make("apply", "RESTART=yes", env=env.reset())
        container.remove(force=True)
        network.remove()
        assert back.exit_code == 0, back.text
        # Not before: they would count as lost.
        secrets.sh("rm -f /secrets/backup.s3-key* /secrets/backup.ca")
        # Compose leaves it; nothing is on it any more.
        with suppress(docker.errors.NotFound):
            stack.client.networks.get(f"{stack.project}_uplink").remove()
        stack.wait_healthy(seconds=120)
        # What was logged meanwhile is in the other repository and missing in this one, which begins
        # anew for the tests after this one.
        made = ops.make("backup", "TYPE=full", env=env)
        assert made.exit_code == 0, made.text
        words = ["pgbackrest", f"--config={CONFIG}", f"--stanza={STANZA}", "expire"]
        words += ["--repo1-retention-full=1", "--repo1-retention-full-type=count"]
        code, said = run_in(stack.container("backup"), words)
        assert code == 0, said


@pytest.mark.slow
def test_backups_on_another_machine_are_made_checked_and_restored(
    stack: Stack, ops: Commands, env: EnvDir, place: Container, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    write_given(place, given, "another-secret")
    env.set(BACKUP_REPOSITORY="s3", BACKUP_HOST="place", BACKUP_PORT=8443, BACKUP_BUCKET="sluice")
    # As fast as it can: the database has grown with all the other tests.
    env.set(BACKUP_NETWORK="uplink", BACKUP_CPUS="2.0")
    # The drill waits for it.
    env.set(BACKUP_ARCHIVE_TIMEOUT_SECONDS=5)
    taken = ops.make("backup-key", f"FROM={given}", env=env)
    assert taken.exit_code == 0, taken.text
    # Not to be reached yet: the server's end does not wait for it.
    applied = ops.make("apply", "RESTART=yes", env=env)
    assert applied.exit_code == 0, applied.text
    stack.client.networks.get(f"{stack.project}_uplink").connect(place, aliases=["place"])
    refused = ops.make("backup", "TYPE=full", env=env)
    assert refused.exit_code != 0
    assert "SignatureDoesNotMatch" in refused.text
    write_given(place, given, "the-secret-of-it")
    taken = ops.make("backup-key", f"FROM={given}", env=env)
    assert taken.exit_code == 0, taken.text
    poll(
        lambda: ops.make("backup", "TYPE=full", env=env).exit_code == 0,
        seconds=60,
        every=2.0,
        what="a backup",
    )
    drill = ops.make("drill", env=env)
    assert drill.exit_code == 0, drill.text
    verified = ops.make("verify-backup", env=env)
    assert verified.exit_code == 0, verified.text
    listed = ops.make("backups", "JSON=yes", env=env)
    assert {one["type"] for one in listed.document["backups"]} == {"full"}
    assert listed.document["error"] == ""
