"""A docker that only answers, for the scripts on the host: what they print, and what they do.

The commands inside the containers are tested on their own; here it is the scripts that count.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fix_stack import on_host

# Notes each call, and what infra.swarm is given to read; answers a command as answers.json says,
# everything else with nothing.
DOCKER = """#!{python} -IS
import json, sys, time
from pathlib import Path

words, folder = sys.argv[1:], Path({folder!r})
with (folder / "calls").open("a+") as calls:
    calls.write(" ".join(words) + chr(10))
    calls.seek(0)
    made = calls.read()
if "infra.swarm" in words:
    (folder / f"for-{{words[-1]}}").write_text(sys.stdin.read())
text = " ".join(words[words.index("ops") + 1:] if "ops" in words else words)
answers = json.loads((folder / "answers.json").read_text())
parts = [part.partition(chr(0)) for part in answers]
known = [answers[a + b + c] for a, b, c in parts if a in text and c in made]
if known:
    sys.stderr.write(known[0]["stderr"])
    sys.stdout.write(known[0]["stdout"])
    if known[0]["hangs"]:
        sys.stdout.flush()
        sys.stdin.read()
        with (folder / "calls").open("a") as calls:
            calls.write("alone: " + text + chr(10))
        time.sleep(known[0]["hangs"])
    sys.exit(known[0]["code"])
"""


@dataclass
class Ran:
    """How a script ended, and what it asked of docker."""

    exit_code: int
    stdout: str
    stderr: str
    calls: list[str]

    @property
    def document(self) -> dict[str, Any]:
        """Return the one document that it printed."""
        return dict(json.loads(self.stdout))

    @property
    def commands(self) -> list[str]:
        """Return the commands that the document names."""
        return [one["command"] for one in self.document["commands"]]


@dataclass
class Docker:
    """A docker whose answers a test gives; a key is a part of the command's text."""

    folder: Path
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(
        self,
        command: str,
        *,
        code: int = 0,
        stdout: str = "",
        stderr: str = "",
        hangs: float = 0.0,
        after: str = "",
    ) -> None:
        """Answer a command; where it `hangs`, until its standard input ends and so long after.

        With `after`, only once such a call was made, and then before any other answer.
        """
        answer = {"code": code, "stdout": stdout, "stderr": stderr, "hangs": hangs}
        if after:
            self.answers = {f"{command}\0{after}": answer} | self.answers
        else:
            self.answers[command] = answer

    def tell(self, command: str, *, code: int = 0, stderr: str = "", **fields: object) -> None:
        """Answer a command with a document over several lines."""
        document = {"exit_code": code, **fields}
        self.answer(command, code=code, stdout=json.dumps(document, indent=2) + "\n", stderr=stderr)

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        (self.folder / "answers.json").write_text(json.dumps(self.answers))
        return subprocess.Popen(
            [*on_host(script), *arguments],
            env={
                **os.environ,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "SLUICE_ENV_DIR": str(self.folder),
                "TMPDIR": str(self.folder / "tmp"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str) -> Ran:
        return self.finish(self.start(script, *arguments))

    def finish(self, process: subprocess.Popen[str]) -> Ran:
        stdout, stderr = process.communicate(timeout=60)
        assert list((self.folder / "tmp").iterdir()) == [], "a temporary file stays"
        calls = self.folder / "calls"
        made = calls.read_text().splitlines() if calls.exists() else []
        return Ran(process.returncode, stdout, stderr, made)

    def noted(self, call: str) -> bool:
        calls = self.folder / "calls"
        return calls.exists() and call in calls.read_text()
