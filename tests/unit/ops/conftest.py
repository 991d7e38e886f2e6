"""Commands run as a program runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.ops import operation
from infra.ops.operation import Request
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
    monkeypatch.setattr(operation, "GRACE_SECONDS", 0.3)
