"""Every command in the README and the documents exists and is run by a test."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.command import run
from tests.fix_stack import REPOSITORY, Stack

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:make|docker compose) [^`]+)`")
# Programs of the tests' own environment: run below.
OWN = ".venv/bin/"
TARGET = re.compile(r"^([a-z][a-z0-9-]*):.*## ", re.MULTILINE)

# Look without changing anything: run here.
READ_ONLY = ["help", "ps", "plan", "plan FULL=yes", "plan JSON=yes", "status", "status JSON=yes"]

# What the tests run by another way than `make TARGET` in a test's own text: by whom, and why.
ELSEWHERE = {
    "make test": "this run, or the one before it",
    "make test-all": "this run, or the next",
    "make lint": "make test begins with it",
    "make up": "make test begins with it",
    "make build": "make up begins with it",
    "make test-swarm": "a run of its own: three Docker engines",
    "make test-unit": "its tests are part of this run",
    "make psql": "tests/ops/test_status_faults.py",
    "make assess": "tests/stack/test_compose.py",
    "make bench-pool": "tests/stack/test_bench_pool.py",
    "make bench-writes": "tests/stack/test_bench_writes.py",
    "make down": "tests/stack/test_compose.py runs the compose command that it is",
    "make destroy": "would delete what the other tests stand on; refused without CONFIRM below",
}


def commands() -> list[tuple[str, str]]:
    """Return (document, command) for each command that a document shows."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        shown = [line for block in BLOCK.findall(text) for line in block.splitlines()]
        shown += INLINE.findall(text)
        stripped = (re.sub(r"\s+#.*", "", line).strip() for line in shown)
        found += [(document.name, line) for line in stripped if line]
    return found


def targets() -> set[str]:
    """Return the Makefile's documented targets."""
    return set(TARGET.findall((REPOSITORY / "Makefile").read_text(encoding="utf-8")))


def sources_of_tests() -> str:
    """Return the text of every test but this one."""
    files = (REPOSITORY / "tests").rglob("*.py")
    return "\n".join(
        one.read_text(encoding="utf-8") for one in files if one.name != "test_commands.py"
    )


def scripts_of_tests() -> list[str]:
    """Return the commands of the lists that tests run."""
    files = (REPOSITORY / "tests").rglob("commands.txt")
    return [line for one in files for line in one.read_text(encoding="utf-8").splitlines()]


def script_of(target: str) -> str:
    """Return the recipe of a target."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    match = re.search(rf"^{re.escape(target)}:[^\n]*\n((?:\t[^\n]*\n?)*)", text, re.MULTILINE)
    assert match, f"the Makefile has no target {target}"
    return match.group(1)


def run_by_a_test(target: str, sources: str) -> bool:
    """Return True if a test runs the target, or the script or ops command that it consists of."""
    if re.search(rf'["\']{re.escape(target)}["\']', sources):
        return True
    recipe = script_of(target)
    # A script of its own, or an operation of operate.sh, which alone would say nothing.
    own = re.findall(r"infra/host/([a-z-]+\.sh)", recipe)
    scripts = [one for one in own if one != "operate.sh"]
    scripts += [f'"{one}"' for one in re.findall(r"infra/host/operate\.sh ([a-z-]+)", recipe)]
    # The words of an operator command, as a test gives them: "rotate", "passwords".
    words = re.findall(r" ops ([a-z]+(?: [a-z]+)*)", recipe)
    commands = [", ".join(f'"{word}"' for word in found.split()) for found in words]
    return any(one in sources for one in [*scripts, *commands])


@pytest.mark.parametrize(("document", "command"), sorted(set(commands())))
def test_a_documented_command_exists_and_is_run_by_a_test(document: str, command: str) -> None:
    words = command.split()
    if words[0].startswith(OWN):
        return
    if words[0] != "make":
        program = next(word for word in words if "=" not in word)
        known = program in ("docker", "make") or command in scripts_of_tests()
        assert known, f"{document} shows {command}"
        return
    target = words[1]
    assert target in targets(), f"{document} shows {command}; the Makefile has no such target"
    known = target in READ_ONLY or f"make {target}" in ELSEWHERE
    assert known or run_by_a_test(target, sources_of_tests()), (
        f"no test runs {command} ({document})"
    )


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "tests" / "clients" / "guestbook").iterdir()), ids=lambda f: f.name
)
def test_a_file_that_the_newcomer_is_shown_is_the_one_that_is_tested(file: Path) -> None:
    document = (REPOSITORY / "docs" / "clients.md").read_text(encoding="utf-8")
    assert file.read_text(encoding="utf-8") in document


@pytest.mark.parametrize(
    "command", sorted({command for _, command in commands() if command.startswith(OWN)})
)
def test_a_documented_command_of_the_virtual_environment_works(command: str) -> None:
    program, _, written = command.partition(" > ")
    words = shlex.split(program)
    if words[0] == f"{OWN}pytest":
        # What it would run is a part of this run.
        words += ["--collect-only", "--quiet"]
    done = run(*words)
    assert done.exit_code == 0, done.text
    if written:
        assert done.stdout == (REPOSITORY / written).read_text(encoding="utf-8")


def test_each_row_for_a_bottleneck_is_what_a_fault_test_saw() -> None:
    text = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
    table = text.partition("| the last lines say | first |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(rows) > 5
    sources = sources_of_tests()
    assert [row for row in rows if row not in sources] == []


@pytest.mark.parametrize("arguments", READ_ONLY)
def test_a_command_that_only_looks_succeeds(stack: Stack, arguments: str) -> None:
    done = run("make", *arguments.split(), seconds=120)
    assert done.exit_code == 0, done.text
    assert done.stdout.strip()
    if "JSON=yes" in arguments:
        json.loads(done.stdout)


def test_destroy_is_refused_without_confirmation() -> None:
    refused = run("make", "destroy")
    assert refused.exit_code != 0
    assert "CONFIRM=yes" in refused.stderr


def test_the_compose_command_of_the_interactive_target_works(stack: Stack) -> None:
    assert run("docker", "compose", "ps", "--all").exit_code == 0
