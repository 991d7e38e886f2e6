"""The secrets volume as root sees it, and secrets that an operator chose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Done
from tests.fix_stack import Stack


class Secrets:
    """The secrets volume and the tiers' files, as root sees them in a container of its own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._image = stack.container("postgres").attrs["Config"]["Image"]

    def sh(self, script: str, *arguments: str) -> str:
        """Run a shell script where every volume is mounted; return what it printed."""
        tiers = ("postgres", "pgbouncer", "app", "ops")
        volumes = {
            f"{self._stack.project}_{tier}-config": {"bind": f"/out/{tier}", "mode": "rw"}
            for tier in tiers
        } | {f"{self._stack.project}_secrets": {"bind": "/secrets", "mode": "rw"}}
        output = self._stack.client.containers.run(
            self._image,
            ["-c", script, "sh", *arguments],
            entrypoint="sh",
            user="0:0",
            network_mode="none",
            volumes=volumes,
            remove=True,
        )
        return str(output.decode())

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
def secrets(stack: Stack) -> Secrets:
    """Return the secrets volume; nothing is remembered of it."""
    return Secrets(stack)


@pytest.fixture
def given(stack: Stack, tmp_path: Path) -> Given:
    """Return an empty directory for secrets of the operator's choice."""
    return Given(stack, tmp_path)
