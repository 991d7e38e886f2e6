"""`preset`: the plan and the text of a starting point."""

import shutil
from pathlib import Path

import pytest

from infra.compiler import envfile
from infra.compiler.build import check
from infra.ops import exits, preset
from tests.unit.infra.support import REPOSITORY

ENV = REPOSITORY / "infra" / "env"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    shutil.copytree(ENV, tmp_path / "env")
    path = tmp_path / "env" / "stack.env"
    path.write_text(path.read_text().replace("API_PORT=8080", "API_PORT=9999"))
    return path


@pytest.mark.parametrize("name", ["laptop", "small", "medium", "large"])
def test_the_text_is_the_preset_with_the_present_port(env_file: Path, name: str) -> None:
    own = ENV / "presets" / f"{name}.env"
    text = preset.adopted(own.read_text(), env_file)
    adopted = {one.name: one.text for one in envfile.parse(text, name="x").entries}
    expected = {one.name: one.text for one in envfile.read(own, name="x").entries}
    assert adopted == expected | {"API_PORT": "9999"}
    assert text.splitlines()[0] == f"# Sluice: from the preset {name}."
    env_file.write_text(text)
    assert check(env_file).faults == ()


def test_an_unknown_preset_is_refused_with_the_known_ones(
    env_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = env_file.parent / "none"
    assert preset.run("huge", env_file, nowhere, nowhere) == exits.BAD_INPUT
    assert "'huge' is not one of laptop, small, medium, large" in capsys.readouterr().err


def test_the_plan_of_a_preset_is_shown_and_nothing_is_written(
    env_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = env_file.read_bytes()
    nowhere = env_file.parent / "none"
    assert preset.run("small", env_file, nowhere, nowhere) == exits.OK
    assert "POSTGRES_MEMORY_MB" in capsys.readouterr().out
    assert env_file.read_bytes() == before
