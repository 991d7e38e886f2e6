"""loadtest/run, against a docker that only answers: what it hands on to the containers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.command import REPOSITORY, run

# Notes each call; says which point is next, and of any container that it runs.
DOCKER = """#!{python} -IS
import sys
from pathlib import Path

words = sys.argv[1:]
with Path({calls!r}).open("a") as calls:
    calls.write(" ".join(words) + chr(10))
if "ps" in words or "ls" in words:
    print("0123456789ab")
if "tune-next" in words:
    print("done")
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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_reaches_the_container(command: str, tmp_path: Path) -> None:
    for folder in ("loadtest/host", "infra/host", "infra/env"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    shutil.copy(REPOSITORY / "loadtest" / "run", tmp_path / "loadtest")
    calls, docker = tmp_path / "calls", tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(python=sys.executable, calls=str(calls)), "utf-8")
    docker.chmod(0o755)
    options = COMMANDS[command].split()
    done = run(
        str(tmp_path / "loadtest" / "run"),
        command,
        env={
            **dict.fromkeys(options, "1"),
            "PATH": f"{docker.parent}:{os.environ['PATH']}",
            "COMPOSE_PROJECT_NAME": "sluice-none",
            "SLUICE_ENV_DIR": "./infra/env",
        },
        seconds=60,
    )
    assert done.exit_code == 0, done.stderr
    measured = [call for call in calls.read_text("utf-8").splitlines() if "RUN_DIR=" in call]
    assert measured
    for call in measured:
        assert [name for name in options if f"--env {name} " not in call] == [], call
