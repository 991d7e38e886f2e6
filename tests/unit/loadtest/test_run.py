"""loadtest/run, against a docker that only answers: what it hands on to the containers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.command import REPOSITORY, Done, run

# Notes each call; says which point is next, and of any container that it runs.
DOCKER = """#!{python} -IS
import os, sys
from pathlib import Path

words = sys.argv[1:]
with Path({calls!r}).open("a") as calls:
    calls.write(" ".join(words) + chr(10))
if "postgres-1" in " ".join(words):
    print(os.environ.get("OF_THREE", ""))
elif "ps" in words or "ls" in words:
    print("0123456789ab")
if "tune-next" in words:
    print(os.environ.get("POINT", "done"))
sys.exit("tune-measure" in words)
"""
COMMANDS = {
    "load": "USERS SHAPE RUN_SECONDS MIX PAUSE_MS TASKS_EACH MAX_ERROR_PERCENT MAX_P95_MS "
    "MAX_REQUESTS",
    "load-sql": "CLIENTS DIRECT_CLIENTS_MAX CASE_SECONDS REPEATS SCALE LOGIN_MS ONLY",
    "compare": "SITE_YEARS FAILURE_SECONDS RUNS PROCESSES PROCESS_SECONDS",
    "isolation": "PHASE_SECONDS REPEATS RATE BATCH_CLIENTS MAX_RATIO SUBMISSIONS IDLE_SECONDS",
    "tune": "MINUTES REPEATS USERS POINT_SECONDS MIX TASKS_EACH",
    "soak": "MINUTES USERS MIX PAUSE_MS TASKS_EACH MAX_ERROR_PERCENT MAX_P95_MS "
    "MAX_GROWTH_PERCENT MAX_REQUESTS",
}


class LoadTests:
    """A copy of the scripts, and the docker that answers them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        for folder in ("loadtest/host", "infra/host", "infra/env"):
            shutil.copytree(REPOSITORY / folder, path / folder)
        shutil.copy(REPOSITORY / "loadtest" / "run", path / "loadtest")
        docker = path / "bin" / "docker"
        docker.parent.mkdir()
        docker.write_text(DOCKER.format(python=sys.executable, calls=str(path / "calls")), "utf-8")
        docker.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """Return what was asked of it, in order."""
        return (self._path / "calls").read_text("utf-8").splitlines()

    def run(self, command: str, **variables: str) -> Done:
        """Run a load test."""
        env = {
            **variables,
            "PATH": f"{self._path / 'bin'}:{os.environ['PATH']}",
            "COMPOSE_PROJECT_NAME": "sluice-none",
            "SLUICE_ENV_DIR": "./infra/env",
        }
        return run(str(self._path / "loadtest" / "run"), command, env=env, seconds=60)


@pytest.fixture
def tests(tmp_path: Path) -> LoadTests:
    """Return the load tests of a stack that seems to run."""
    return LoadTests(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_reaches_the_container(command: str, tests: LoadTests) -> None:
    options = COMMANDS[command].split()
    done = tests.run(command, **dict.fromkeys(options, "1"))
    assert done.exit_code == 0, done.stderr
    measured = [call for call in tests.calls if "RUN_DIR=" in call]
    assert measured
    for call in measured:
        assert [name for name in options if f"--env {name} " not in call] == [], call


@pytest.mark.parametrize("command", COMMANDS)
def test_three_servers_are_refused(command: str, tests: LoadTests) -> None:
    done = tests.run(command, OF_THREE="0123456789ab")
    assert done.exit_code == 2
    assert "the load tests measure one PostgreSQL server" in done.stderr


def test_a_point_that_cannot_be_measured_ends_the_run_and_puts_back_what_was(
    tests: LoadTests,
) -> None:
    done = tests.run("tune", POINT="api 4")
    assert done.exit_code == 1
    assert len([call for call in tests.calls if "tune-measure" in call]) == 1
    assert "applying the configuration of before" in done.stderr


def test_without_a_run_to_resume_tune_says_so(tests: LoadTests) -> None:
    done = tests.run("tune", RESUME="yes")
    assert done.exit_code == 2
    assert "no run to resume; start one with: make tune" in done.stderr
