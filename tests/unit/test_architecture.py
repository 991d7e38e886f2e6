"""docs/architecture.md: its rooms exist, all of them are in it, and imports follow its rules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import REPOSITORY, run

DOCUMENT = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ("app", "infra", "loadtest")
# Of a package: the prefixes of this project's modules that it may import.
MAY_IMPORT = {
    "app": ["app"],
    "app/pool": ["app.pool"],
    "app/risk": ["app.risk"],
    "infra": ["infra"],
    "infra/config": ["infra.config"],
    "loadtest": ["loadtest", "app.client", "app.risk", "infra.config"],
}


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute name of every module of this project that a file imports."""
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ROOMS)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    allowed = tuple(f"{prefix}." for prefix in MAY_IMPORT[package])
    wrong = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in (REPOSITORY / package).rglob("*.py")
        for name in imports(path)
        if not f"{name}.".startswith(allowed)
    }
    assert wrong == set()


def test_every_package_has_its_line_and_every_line_its_package() -> None:
    rows = set(re.findall(r"^\| `((?:app|infra|loadtest|pgbouncer)[a-z/]*)` \|", DOCUMENT, re.M))
    packages = {
        str(path.parent.relative_to(REPOSITORY))
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("__init__.py")
    }
    assert packages - rows == {"infra"}
    assert [row for row in rows if not (REPOSITORY / row).is_dir()] == []


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|sh|env|j2|toml|yaml))`", text))
    files = run("git", "ls-files").stdout.splitlines()
    missing = {one for one in named if not any(f"/{file}".endswith(f"/{one}") for file in files)}
    assert len(named) > 10
    assert missing == set()
