"""A data volume that fills up: a stack of its own, whose volume is a small file system."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from docker.models.containers import Container

from tests import command
from tests.command import Done
from tests.fix_api import ASSESSMENTS, Api, assessment_body
from tests.fix_ops import EnvDir
from tests.fix_stack import REPOSITORY, Stack, poll, run_in

VOLUME = "/var/lib/postgresql/data"
BALLAST_MB = 64
# Docker unmounts a tmpfs with its last container: the holder keeps it while the server restarts.
OVERRIDE = f"""
services:
  holder:
    image: "sluice-postgres:${{SLUICE_IMAGE_TAG:-latest}}"
    entrypoint: [sleep, infinity]
    init: true
    network_mode: none
    volumes: [postgres-data:{VOLUME}]
volumes:
  postgres-data:
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size=512m,uid=10070,gid=10070,mode=0700"}}
"""


@dataclass(frozen=True)
class Small:
    """The stack with the small volume."""

    stack: Stack
    api: Api
    env: dict[str, str]

    @property
    def postgres(self) -> Container:
        """Return PostgreSQL's container, whatever its state."""
        (container,) = self.stack.containers("postgres", all_states=True)
        return container

    def run(self, *words: str) -> Done:
        """Run a command of an operator of this stack."""
        return command.run(*words, env=self.env)

    def bottleneck(self) -> dict[str, Any]:
        """Return the verdict of `make status`."""
        done = self.run("make", "--no-print-directory", "status", "JSON=yes")
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return dict(json.loads(done.stdout)["bottleneck"])

    def logged(self, request_id: str) -> str:
        """Return what the api has logged of a request."""
        lines = self.stack.container("api").logs(tail=1000).decode().splitlines()
        return "\n".join(line for line in lines if request_id in line)

    def submit(self) -> str | None:
        """Submit an assessment; return its id, None where the answer is 503."""
        answer = self.api.submit(assessment_body())
        assert answer.status_code in (202, 503), answer.text
        return str(answer.json()["assessment_id"]) if answer.status_code == 202 else None

    def reads(self, identifier: str) -> bool:
        """Return True if an accepted assessment is found, False where the answer is 503."""
        answer = self.api.http.get(f"{ASSESSMENTS}/{identifier}")
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Fill the volume to its last byte; afterwards make room, and see the ballast come back."""
        holder = self.stack.container("holder")
        code, said = run_in(holder, ["sh", "-c", f"cat /dev/zero >{VOLUME}/filler"])
        assert code != 0, said
        try:
            yield
        finally:
            assert run_in(holder, ["rm", f"{VOLUME}/filler"])[0] == 0
            self.postgres.restart()
            self.stack.wait_healthy(seconds=90)
        code, size = run_in(holder, ["stat", "--format=%s %b", f"{VOLUME}/ballast"])
        assert (code, size.split()) == (0, [str(BALLAST_MB << 20), str(BALLAST_MB << 11)])


@pytest.fixture(scope="module")
def small(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Start a stack whose volume is smaller than its settings promise; remove it afterwards."""
    directory = tmp_path_factory.mktemp("small")
    (directory / "override.yaml").write_text(OVERRIDE, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env_dir = EnvDir(directory / "env").set(
        API_PORT=port,
        PGBOUNCER_REPLICAS=1,
        POSTGRES_DISK_MB=4096,
        POSTGRES_MAX_WAL_MB=512,
        REFERENCE_GRID_DEGREES="1.0",
    )
    project = f"{stack.project}-full-disk"
    env = {
        "API_PORT": str(port),
        "COMPOSE_FILE": f"{REPOSITORY / 'compose.yaml'}:{directory / 'override.yaml'}",
        "COMPOSE_PROJECT_NAME": project,
        "SLUICE_ENV_DIR": str(env_dir.path),
    }
    compose = ("docker", "compose", "--env-file", str(env_dir.file))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=15) as http:
        one = Small(Stack(stack.client, project), Api(http), env)
        try:
            started = one.run(*compose, "up", "--detach", "--wait", "holder", "api")
            assert started.returncode == 0, started.stdout + started.stderr
            yield one
        finally:
            one.run(*compose, "--profile", "ops", "down", "--volumes", "--timeout", "5")


def refused(small: Small, accepted: list[str]) -> bool:
    """Submit once; note what was accepted."""
    identifier = small.submit()
    accepted += [identifier] if identifier else []
    return identifier is None


@contextmanager
def two_checkpoints(postgres: Container) -> Iterator[Callable[[], None]]:
    """Log in now, and return what makes the checkpoints: on a full disk a login can be refused."""
    waits = r"\! until [ -e /run/postgresql/now ]; do sleep 0.1; done"
    psql = ["psql", "--dbname=risk", "--set=ON_ERROR_STOP=1", "--command=SELECT 'logged in'"]
    checkpoints = ("--command=CHECKPOINT", "--command=CHECKPOINT")
    words = ("docker", "exec", str(postgres.name), *psql, f"--command={waits}", *checkpoints)
    session = command.start(*words, merged=True)

    def make_them() -> None:
        assert run_in(postgres, ["touch", "/run/postgresql/now"])[0] == 0
        said, _ = session.communicate(timeout=30)
        assert session.returncode == 0, said

    assert session.stdout
    while "logged in" not in (line := session.stdout.readline()):
        assert line, "psql ended"
    try:
        yield make_them
    finally:
        session.kill()
        session.communicate()


def test_a_full_data_volume_refuses_writes_and_goes_on_reading(small: Small) -> None:
    accepted: list[str] = []
    assert not refused(small, accepted)
    started = small.postgres.attrs["State"]["StartedAt"]
    with two_checkpoints(small.postgres) as make_them, small.filled():
        # Until the free space inside the tables is used up.
        poll(lambda: refused(small, accepted), seconds=60, what="a write is refused")
        answer = small.api.submit(assessment_body())
        assert answer.status_code == 503
        assert "53100" not in answer.text
        poll(
            lambda: "53100" in small.logged(answer.headers["X-Request-ID"]),
            seconds=10,
            what="the log has the cause",
        )
        # With replication slots each would write a new file, and end the server where it cannot.
        make_them()
        assert all(small.reads(one) for one in accepted)
        assert small.bottleneck()["where"] == "disk full"
        assert small.postgres.attrs["State"]["StartedAt"] == started

        done = small.run("make", "free-disk")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the ballast is removed" in done.stdout
        assert "all else on this disk" in done.stdout
        assert not refused(small, accepted)
        assert small.postgres.attrs["State"]["StartedAt"] == started
    poll(lambda: all(map(small.reads, accepted)), seconds=20, what="every accepted one is found")


@pytest.mark.slow
def test_a_server_whose_log_found_no_room_comes_back_with_free_disk(small: Small) -> None:
    accepted: list[str] = []
    assert not refused(small, accepted)
    with small.filled():
        # More log than there are segments to write into, before the next checkpoint is due.
        burst = (
            "DO $$ BEGIN FOR i IN 1..300 LOOP "
            "PERFORM pg_logical_emit_message(false, '', repeat('x', 1000000)); END LOOP; END $$"
        )
        began = datetime.now(UTC)
        assert run_in(small.postgres, ["psql", "--dbname=risk", "--command", burst])[0] != 0
        # Of whoever had to make the next segment: the session, or another process.
        poll(
            lambda: b"PANIC" in small.postgres.logs(since=began),
            seconds=20,
            what="the server's last words",
        )
        poll(
            lambda: small.postgres.attrs["RestartCount"] >= 1,
            seconds=60,
            what="the server ended and was started again",
        )
        poll(lambda: not small.reads(accepted[0]), seconds=30, what="reads are answered 503")
        # Between two starts of the server nobody can look at its volume.
        verdict = poll(
            lambda: (found := small.bottleneck())["where"] == "disk full" and found,
            seconds=60,
            what="the full disk is named",
        )
        assert verdict
        assert verdict["command"] == "make free-disk"

        done = small.run("make", "free-disk")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the ballast is removed" in done.stdout
        poll(lambda: small.reads(accepted[0]), seconds=20, what="reads are answered again")
        poll(lambda: not refused(small, accepted), seconds=20, what="writes are accepted again")
    poll(lambda: all(map(small.reads, accepted)), seconds=20, what="every accepted one is found")
