"""The one way in which tests run a program: no input, a bound in time, all that came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SECONDS_MAX = 240.0


class Done(subprocess.CompletedProcess[str]):
    """How a program ended, and what it printed."""

    @property
    def exit_code(self) -> int:
        """Return what the documents of operations call it."""
        return int(self.returncode)

    @property
    def document(self) -> dict[str, Any]:
        """Return the JSON it printed."""
        return dict(json.loads(self.stdout))

    @property
    def text(self) -> str:
        """Return all that it printed."""
        return str(self.stdout + self.stderr)


def start(
    *command: str,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
    merged: bool = False,
    own_group: bool = False,
) -> subprocess.Popen[str]:
    """Start a program with variables beside the tests' own.

    `merged`: its standard error goes to its output. `own_group`: with all that it starts it can be
    ended at once.
    """
    # `make test` is a make itself: one that knows of it says which directory it enters.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**inherited, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
        start_new_session=own_group,
    )


def finished(process: subprocess.Popen[str], *, seconds: float = SECONDS_MAX) -> Done:
    """Wait for a started program, and return what came of it.

    Raises:
        TimeoutExpired: it was ended after that time, with its group where it has one of its own.

    """
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        process.kill()
    return Done(process.args, process.returncode, stdout, stderr or "")


def run(
    *command: str,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
    merged: bool = False,
    seconds: float = SECONDS_MAX,
) -> Done:
    """Run a program to its end."""
    return finished(start(*command, cwd=cwd, env=env, merged=merged), seconds=seconds)
