"""The operator's commands on the running stack, and env files for them to take."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from infra.config import envfile
from tests import command
from tests.command import Done
from tests.fix_stack import ENV_DIR, Stack, on_host, read_settings


class EnvDir:
    """A copy of the env directory in which settings can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ENV_DIR, path)

    @property
    def file(self) -> Path:
        """Return the path of its stack.env."""
        return self.path / "stack.env"

    def set(self, **settings: object) -> EnvDir:
        """Change settings in place; one that the file leaves out is added."""
        text = self.file.read_text(encoding="utf-8")
        self.file.write_text(envfile.edit(text, settings), encoding="utf-8")
        return self

    def reset(self) -> EnvDir:
        """Put the stack's own values back."""
        shutil.copyfile(ENV_DIR / "stack.env", self.file)
        return self


class Commands:
    """Runs operator commands as `make` does, with any env directory."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def start(self, *arguments: str, env_dir: Path = ENV_DIR) -> subprocess.Popen[str]:
        """Start a command and return its process."""
        words = (*self._stack.compose_command, "run", "--rm", "--no-deps", "--no-TTY", "ops")
        return command.start(*words, *arguments, env={"SLUICE_ENV_DIR": str(env_dir)})

    def run(self, *arguments: str, env_dir: Path = ENV_DIR) -> Done:
        """Run a command to its end."""
        return command.finished(self.start(*arguments, env_dir=env_dir))

    def setting(self, name: str) -> str:
        """Return a setting as the running stack was started with it."""
        return read_settings()[name]

    def script(self, name: str, *arguments: str, env: EnvDir) -> Done:
        """Run an operation of operate.sh, as a make target does, with an env directory."""
        return self._on_host(*on_host(name), *arguments, env=env)

    def make(self, *arguments: str, env: EnvDir) -> Done:
        """Run make as an operator does, with an env directory."""
        return self._on_host("make", *arguments, env=env)

    def _on_host(self, *words: str, env: EnvDir) -> Done:
        changed = {"COMPOSE_PROJECT_NAME": self._stack.project, "SLUICE_ENV_DIR": str(env.path)}
        return command.run(*words, env=changed)

    def apply(self, env: EnvDir, *arguments: str) -> Done:
        """Run `apply` with an env directory."""
        return self.run("apply", *arguments, env_dir=env.path)


@pytest.fixture(scope="session")
def ops(stack: Stack) -> Commands:
    """Return the operator of the running stack."""
    return Commands(stack)


@pytest.fixture
def env(tmp_path: Path) -> EnvDir:
    """Return a copy of the stack's env directory."""
    return EnvDir(tmp_path / "env")
