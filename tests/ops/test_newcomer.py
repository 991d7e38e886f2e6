"""A Django project joins the path by the commands of docs/clients.md."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import command
from tests.command import Done
from tests.fix_clients import CLIENTS, MakeApplication
from tests.fix_ops import EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import Stack

NAME = "guestbook"
FILES = CLIENTS / NAME
COMMANDS = (FILES / "commands.txt").read_text(encoding="utf-8").splitlines()


class Newcomer:
    """Somebody with a clone, a directory of their own, and the commands."""

    def __init__(self, stack: Stack, env: EnvDir, home: Path) -> None:
        self.home = home
        self.project = f"{stack.project}-{NAME}"
        self._clone = {"COMPOSE_PROJECT_NAME": stack.project, "SLUICE_ENV_DIR": str(env.path)}
        self._own = {"COMPOSE_PROJECT_NAME": self.project, "SLUICE": stack.project}

    def run(self, line: str) -> Done:
        """Run a command: make in the clone, the rest in their own directory."""
        in_clone = line.startswith("make ")
        return command.run(
            "bash",
            "-euc",
            line,
            cwd=command.REPOSITORY if in_clone else self.home,
            env={"APP": str(self.home), **(self._clone if in_clone else self._own)},
        )


@pytest.fixture
def newcomer(
    stack: Stack,
    env: EnvDir,
    make_application: MakeApplication,
    drivers_image: str,
    tmp_path: Path,
) -> Iterator[Newcomer]:
    """Return a newcomer with a Dockerfile and a compose.yaml; all that they start goes."""
    make_application(NAME)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(FILES / "compose.yaml", home)
    # Theirs installs Django and psycopg, which this image has.
    (home / "Dockerfile").write_text(f"FROM {drivers_image}\n", encoding="utf-8")
    found = Newcomer(stack, env, home)
    yield found
    gone = found.run("docker compose --profile migrate down --rmi local --timeout 1")
    assert gone.exit_code == 0, gone.text


@pytest.mark.slow
def test_a_new_django_project_reads_and_writes_after_nine_commands(
    newcomer: Newcomer, sql: Sql
) -> None:
    assert len(COMMANDS) < 10
    printed = ""
    for line in COMMANDS:
        done = newcomer.run(line)
        assert done.exit_code == 0, f"{line}\n{done.text}"
        printed = done.stdout
        if "startproject" in line:
            write_project(newcomer.home / NAME)
    assert printed == "hello\n"
    again = newcomer.run(COMMANDS[-1].replace("--data text=hello ", ""))
    assert again.stdout == "hello\n"
    assert sql.value("SELECT text FROM guestbook_entry", database=NAME) == "hello"


def write_project(package: Path) -> None:
    """Do what the document says after startproject: one file longer, two files."""
    with (package / "settings.py").open("a", encoding="utf-8") as settings:
        settings.write((FILES / "settings.py").read_text(encoding="utf-8"))
    for file in ("models.py", "urls.py"):
        shutil.copy(FILES / file, package)
