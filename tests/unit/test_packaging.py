"""pyproject.toml: the requirements of each room and their locks, and what a wheel holds."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.command import REPOSITORY, run

ROOMS = ("app", "infra", "loadtest", "dev")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)
# What no installed file reads: documents, images, and what runs on a host from a clone.
NOT_IN_A_WHEEL = re.compile(
    r"\.md$|Dockerfile|/host/|^infra/(postgres|etcd|gateway|observability)/|^loadtest/(topologies/|run$|compose\.)"
    r"|^pgbouncer/(?!.*\.j2$)"
)


def project() -> dict[str, Any]:
    """Return the table [project]."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def asked(extra: str) -> list[Requirement]:
    """Return the requirements of an extra, with those of the extras that it names."""
    found = []
    for text in project()["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "sluice":
            found += [one for name in requirement.extras for one in asked(name)]
        else:
            found.append(requirement)
    return found


def locked(room: str) -> dict[str, Requirement]:
    """Return the pins of a room's lock by name."""
    text = (REPOSITORY / "requirements" / f"{room}.txt").read_text(encoding="utf-8")
    return {
        name: Requirement(f"{name}=={version}" + (f" ; {marker}" if marker else ""))
        for name, version, marker in PIN.findall(text)
    }


def needed(requirements: list[Requirement]) -> set[str]:
    """Return the names that the requirements come to here, by what is installed."""
    names: set[str] = set()
    seen: set[str] = set()
    open_ends = list(requirements)
    while open_ends:
        requirement = open_ends.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        extras = requirement.extras or {""}
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        for text in importlib.metadata.requires(name) or []:
            further = Requirement(text)
            marker, further.marker = further.marker, None
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                open_ends.append(further)
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_lock_pins_what_pyproject_asks_for(room: str) -> None:
    pins = locked(room)
    for requirement in asked(room):
        (version,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version), f"{requirement}: {version}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_lock_holds_all_that_is_needed_and_nothing_else(room: str) -> None:
    here = {
        name
        for name, pin in locked(room).items()
        if pin.marker is None or pin.marker.evaluate({"extra": ""})
    }
    again = f"uv pip compile pyproject.toml --extra {room}; see CONTRIBUTING.md"
    assert here == needed(asked(room)), again


@pytest.mark.parametrize("room", ROOMS)
def test_every_pin_of_a_lock_has_a_hash_and_no_address(room: str) -> None:
    text = (REPOSITORY / "requirements" / f"{room}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=\S)", text)
    assert [block for block in blocks if block and "--hash=sha256:" not in block] == []
    assert "://" not in text


def test_every_lock_pins_the_same_version() -> None:
    everything = locked("dev")
    for room in ROOMS:
        pins = locked(room)
        assert {
            name for name in pins if pins[name].specifier != everything[name].specifier
        } == set()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds what a wheel would put into site-packages."""
    directory = tmp_path_factory.mktemp("built")
    build = "from setuptools import setup; setup()"
    words = (sys.executable, "-W", "ignore", "-c", build, "build_py", "--build-lib")
    done = run(*words, str(directory))
    assert done.exit_code == 0, done.stderr
    return directory


def test_a_wheel_holds_every_file_that_the_rooms_read(built: Path) -> None:
    listed = run("git", "ls-files", "app", "infra", "loadtest", "pgbouncer").stdout.splitlines()
    expected = {path for path in listed if not NOT_IN_A_WHEEL.search(path)}
    found = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    assert found == expected


def run_installed(built: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that finds the built packages and not those of the repository."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=built,
        env={"PYTHONPATH": str(built), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_sluice_judges_an_env_file(built: Path) -> None:
    module, _, function = project()["scripts"]["sluice"].partition(":")
    script = f"from {module} import {function}; {function}()"
    file = REPOSITORY / "infra" / "env" / "stack.env"
    done = run_installed(built, script, "plan", "--quiet", "--env-file", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_installed_compiler_renders_every_tier(built: Path, tmp_path: Path) -> None:
    script = """
import datetime, pathlib, sys
from infra.config.build import compile_stack
now = datetime.datetime.now(datetime.UTC)
compiled = compile_stack(pathlib.Path("infra/env/stack.env"), pathlib.Path(sys.argv[1]), now=now)
print(*sorted({file.path.split("/")[0] for file in compiled.files}))
"""
    done = run_installed(built, script, str(tmp_path))
    assert done.stdout.split() == ["app", "observability", "ops", "pgbouncer", "postgres"], (
        done.stderr
    )


@pytest.mark.parametrize("package", ["app", "app.pool"])
def test_a_typed_package_is_marked(built: Path, package: str) -> None:
    assert (built / package.replace(".", "/") / "py.typed").is_file()
