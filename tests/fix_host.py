"""The operator's scripts on the host, run as `make` runs them, and the env file they read."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.config import envfile
from tests import command
from tests.fix_ops import Commands
from tests.fix_stack import ENV_FILE, Stack, on_host, read_settings


class Host:
    """Runs the scripts of ``infra/host`` on the stack under test."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script; its standard error is merged into its output."""
        return command.start(
            *on_host(script),
            *arguments,
            env={"COMPOSE_PROJECT_NAME": self._stack.project},
            merged=True,
            # For a test that ends all that the script has started.
            own_group=True,
        )

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        """Run a script to its end; return its exit code and what it printed."""
        done = command.finished(self.start(script, *arguments))
        return done.exit_code, done.stdout

    def end_at(
        self, line: str, end: signal.Signals, script: str, *arguments: str, time: int = 1
    ) -> None:
        """Start a script; end it, and all that it has started, when it prints this text.

        `time` says which time it is printed.
        """
        process = self.start(script, *arguments)
        assert process.stdout
        printed: list[str] = []
        for one in process.stdout:
            printed.append(one)
            if sum(line in text for text in printed) == time:
                os.killpg(process.pid, end)
                assert command.finished(process).exit_code != 0
                return
        pytest.fail(f"{script} never printed {line!r}: {''.join(printed)}")


class EnvFile:
    """The env file of the stack under test, changed setting by setting."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, **settings: str | int) -> None:
        """Give settings other values, in place; one that the file leaves out is added."""
        text = self._path.read_text(encoding="utf-8")
        self._path.write_text(envfile.edit(text, settings), encoding="utf-8")

    def get(self, name: str) -> str:
        """Return the value of a setting as text."""
        return read_settings(self._path)[name]


@pytest.fixture(scope="session")
def host(stack: Stack) -> Host:
    """Return the operator's scripts."""
    return Host(stack)


@pytest.fixture
def env_file() -> Iterator[EnvFile]:
    """Return the env file; its text is put back afterwards, the running configuration is not."""
    before = ENV_FILE.read_text(encoding="utf-8")
    try:
        yield EnvFile(ENV_FILE)
    finally:
        ENV_FILE.write_text(before, encoding="utf-8")


@pytest.fixture
def applied_again(ops: Commands, env_file: EnvFile) -> Iterator[None]:
    """After the test, apply the env file as it was before."""
    before = ENV_FILE.read_text(encoding="utf-8")
    yield
    ENV_FILE.write_text(before, encoding="utf-8")
    done = ops.run("apply")
    assert done.exit_code == 0, done.text


UseHop = Callable[[str], None]


@pytest.fixture
def use_hop(ops: Commands, env_file: EnvFile, applied_again: None) -> UseHop:
    """Return a function that has PgBouncer reach PostgreSQL in this way until the test is over."""

    def use(hop: str) -> None:
        env_file.set(PGBOUNCER_SERVER_HOP=hop)
        done = ops.run("apply")
        assert done.exit_code == 0, done.text

    return use
