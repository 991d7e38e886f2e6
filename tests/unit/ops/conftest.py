"""Commands run as a program runs them; a docker for the scripts on the host."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.config import lock
from infra.ops.operation import Request
from tests.unit.ops.fake_docker import DOCKER, Docker
from tests.unit.ops.support import Run


@pytest.fixture
def document_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command for a program, and returns its document."""

    def run(command: Callable[[Request], int]) -> dict[str, Any]:
        code = command(Request(tmp_path, as_json=True))
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert document["exit_code"] == code
        return document

    return run


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a held lock refused almost at once."""
    monkeypatch.setattr(lock, "GRACE_SECONDS", 0.3)


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    """Return a docker that knows nothing but the ids of containers and images."""
    program = tmp_path / "docker"
    program.write_text(DOCKER.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "stack.env").write_text("PGBOUNCER_REPLICAS=2\nWORKER_REPLICAS=1\n")
    fake = Docker(tmp_path)
    # Asked of every container: names and ids.
    fake.answer("ps --quiet pgbouncer", stdout="one\ntwo\n")
    fake.answer("ps --quiet", stdout="one\n")
    fake.answer("images --quiet", stdout="id\n")
    return fake
