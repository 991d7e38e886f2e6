"""The secrets volume as root sees it, and secrets that an operator chose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container

from tests import command
from tests.command import Done
from tests.fix_stack import Stack


class Secrets:
    """The secrets volume and the tiers' files, as root sees them in a container of its own."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def sh(self, script: str, *arguments: str) -> str:
        """Run a shell script where every volume is mounted; return what it printed."""
        words = ("docker", "exec", "--user", "0:0", str(self._container.name))
        done = command.run(*words, "sh", "-c", script, "sh", *arguments)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def read(self, name: str) -> str:
        """Return a secret."""
        return self.sh('cat "/secrets/$1"', name)


class Given:
    """A directory of secrets that an operator chose, and commands that take them from there."""

    def __init__(self, stack: Stack, path: Path) -> None:
        self._stack = stack
        self.path = path

    def rotate(self, *arguments: str) -> Done:
        """Run `ops rotate` with the directory mounted."""
        mounted = ("run", "--rm", "--no-deps", "--no-TTY", "--volume", f"{self.path}:/given:ro")
        return self._stack.compose(*mounted, "ops", "rotate", *arguments, "--from", "/given")


@pytest.fixture(scope="session")
def secrets(stack: Stack) -> Iterator[Secrets]:
    """Return the secrets volume; nothing is remembered of it."""
    tiers = ("postgres", "pgbouncer", "app", "ops")
    volumes = {
        f"{stack.project}_{tier}-config": {"bind": f"/out/{tier}", "mode": "rw"} for tier in tiers
    } | {f"{stack.project}_secrets": {"bind": "/secrets", "mode": "rw"}}
    container = stack.client.containers.run(
        stack.container("postgres").attrs["Config"]["Image"],
        ["infinity"],
        entrypoint=["sleep"],
        user="0:0",
        network_mode="none",
        volumes=volumes,
        # The image carries the project's name; `docker compose down` would remove the container.
        labels={"com.docker.compose.project": ""},
        init=True,
        detach=True,
    )
    try:
        yield Secrets(container)
    finally:
        container.remove(force=True)


@pytest.fixture
def given(stack: Stack, tmp_path: Path) -> Given:
    """Return an empty directory for secrets of the operator's choice."""
    return Given(stack, tmp_path)
