"""The operator's scripts on the host, run as `make` runs them, and the env file they read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_stack import ENV_FILE, REPOSITORY, Stack, on_host

SCRIPT_SECONDS = 240.0


class Host:
    """Runs the scripts of ``infra/host`` on the stack under test."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script; its standard error is merged into its output."""
        return subprocess.Popen(
            [*on_host(script), *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "COMPOSE_PROJECT_NAME": self._stack.project},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A process group of its own, for a test that ends all that the script has started.
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        """Run a script to its end; return its exit code and what it printed."""
        process = self.start(script, *arguments)
        output, _ = process.communicate(timeout=SCRIPT_SECONDS)
        return process.returncode, output

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
                process.communicate(timeout=SCRIPT_SECONDS)
                assert process.returncode != 0
                return
        pytest.fail(f"{script} never printed {line!r}: {''.join(printed)}")

    def ops(self, *arguments: str) -> tuple[int, str, str]:
        """Run an operator command; return its exit code, output and standard error."""
        done = self._stack.compose("run", "--rm", "--no-deps", "--no-TTY", "ops", *arguments)
        return done.returncode, done.stdout, done.stderr


class EnvFile:
    """The env file of the stack under test, changed setting by setting."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, **settings: str | int) -> None:
        """Give settings other values, in place."""
        text = self._path.read_text(encoding="utf-8")
        for name, value in settings.items():
            text, found = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", text)
            assert found == 1, f"{name} is {found} times in {self._path}"
        self._path.write_text(text, encoding="utf-8")

    def get(self, name: str) -> str:
        """Return the value of a setting as text."""
        match = re.search(rf"(?m)^{name}=(.*)$", self._path.read_text(encoding="utf-8"))
        assert match, f"{name} is not in {self._path}"
        return match[1]


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
def applied_again(host: Host, env_file: EnvFile) -> Iterator[None]:
    """After the test, apply the env file as it was before."""
    before = ENV_FILE.read_text(encoding="utf-8")
    yield
    ENV_FILE.write_text(before, encoding="utf-8")
    code, output, error = host.ops("apply")
    assert code == 0, output + error
