"""The env files and the knob table say the same."""

import re
from pathlib import Path

import pytest

from infra.compiler import catalogue
from infra.compiler.build import check
from infra.compiler.envdoc import document, knob_comment
from infra.compiler.envfile import parse
from infra.compiler.presets import PRESETS
from tests.unit.infra.support import REPOSITORY, messages

ENV = REPOSITORY / "infra" / "env"
PRESET_NAMES = sorted(name for name in PRESETS if name != "stack")


def _without_values(text: str) -> str:
    return re.sub(r"(?m)^([A-Z_]+)=.*$", r"\1=", text)


def test_stack_env_documents_every_knob_as_the_table_does() -> None:
    found = _without_values((ENV / "stack.env").read_text())
    assert found == _without_values(document(PRESETS["stack"]))


def test_stack_env_passes_every_rule() -> None:
    assert messages(check(ENV / "stack.env")) == ""


def test_the_link_for_compose_points_to_stack_env() -> None:
    link = REPOSITORY / ".env"
    assert link.is_symlink()
    assert link.readlink() == Path("infra/env/stack.env")


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_passes_every_rule(name: str) -> None:
    assert messages(check(ENV / "presets" / f"{name}.env")) == ""


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_is_what_the_table_gives(name: str) -> None:
    assert (ENV / "presets" / f"{name}.env").read_text() == document(PRESETS[name])


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_says_which_machine_it_is_for(name: str) -> None:
    header = (ENV / "presets" / f"{name}.env").read_text().split("\n\n")[1]
    assert re.search(r"cores.*GB of\s(# )?memory", header, re.DOTALL)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_gives_every_knob(name: str) -> None:
    entries = parse((ENV / "presets" / f"{name}.env").read_text(), name=name).entries
    assert [entry.name for entry in entries] == [knob.name for knob in catalogue.all_knobs()]


def test_the_laptop_preset_is_the_default_of_every_knob() -> None:
    assert check(ENV / "presets" / "laptop.env").values.as_dict() == catalogue.defaults().as_dict()


def test_no_preset_but_those_of_the_table_exists() -> None:
    assert sorted(path.stem for path in (ENV / "presets").glob("*")) == PRESET_NAMES


def test_a_comment_states_unit_range_default_rule_and_cost() -> None:
    comment = knob_comment(catalogue.by_name()["WORKER_THREADS"])
    for part in ("Unit: threads.", "Range: 1..256.", "Default: 4.", "Rule: at most", "Change:"):
        assert part in comment


def test_every_knob_named_in_a_rule_exists() -> None:
    names = set(catalogue.by_name())
    for knob in catalogue.all_knobs():
        mentioned = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", f"{knob.rule} {knob.meaning}"))
        assert mentioned <= names
