"""The lists by which extra files are checked are what the running servers say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.fix_stack import REPOSITORY, Stack

SCRIPT = "infra/host/server-parameters.sh"


@pytest.fixture
def said(stack: Stack, tmp_path: Path) -> Path:
    """Return a directory with the lists as the running servers have them."""
    subprocess.run(
        [SCRIPT, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "COMPOSE_PROJECT_NAME": stack.project},
        check=True,
        timeout=60,
    )
    return tmp_path


@pytest.mark.parametrize("name", ["postgresql.tsv", "pgbouncer.tsv"])
def test_the_list_of_parameters_is_that_of_the_running_server(said: Path, name: str) -> None:
    kept = REPOSITORY / "infra" / "config" / "parameters" / name
    assert kept.read_text() == (said / name).read_text(), f"write it again: {SCRIPT}"
