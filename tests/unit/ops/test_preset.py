"""`preset`: the plan and the text of a starting point."""

import shutil
from pathlib import Path

import pytest

from infra.config import envfile
from infra.config.build import check
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
    path = ENV / "presets" / f"{name}.env"
    overlay = envfile.read(path, name="x")
    text = preset.adopted(name, overlay, path.read_text(), env_file)
    adopted = {one.name: one.text for one in envfile.parse(text, name="x").entries}
    assert adopted["API_PORT"] == "9999"
    assert {(one.name, one.text) for one in overlay.entries} - adopted.items() <= {
        ("API_PORT", "8080")
    }
    assert text.splitlines()[0] == f"# Sluice: from the preset {name}."
    env_file.write_text(text)
    assert check(env_file).faults == ()


def test_a_preset_with_an_unknown_and_a_faulty_setting_is_refused_by_name(
    env_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = env_file.parent / "presets" / "own.env"
    own.write_text("# For a machine of its own.\n\nAPI_THREAD=3\nAPI_CPUS=two\n")
    nowhere = env_file.parent / "none"
    assert preset.run("own", env_file, nowhere, nowhere) == exits.BAD_INPUT
    said = capsys.readouterr().err
    assert "presets/own.env:3: API_THREAD=3 is not a setting; did you mean API_THREADS?" in said
    assert "presets/own.env:4: API_CPUS=two is not a number" in said


def test_an_unknown_preset_is_refused_with_the_known_ones(
    env_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = env_file.parent / "none"
    assert preset.run("huge", env_file, nowhere, nowhere) == exits.BAD_INPUT
    assert "'huge' is not one of laptop, large, medium, small" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["laptop", "small", "medium", "large"])
def test_the_plan_of_a_preset_is_shown_and_nothing_is_written(
    env_file: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = env_file.read_bytes()
    nowhere = env_file.parent / "none"
    assert preset.run(name, env_file, nowhere, nowhere) == exits.OK
    assert "POSTGRES_MEMORY_MB" in capsys.readouterr().out
    assert env_file.read_bytes() == before
