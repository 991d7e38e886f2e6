"""stack.env, the presets and docs/settings.md say what the setting table says."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from infra.config import catalogue, envdoc, envfile
from infra.config.build import check
from infra.config.envfile import assign
from infra.config.settings import Setting
from tests.unit.infra.support import REPOSITORY, messages

ENV = REPOSITORY / "infra" / "env"
PRESETS = sorted(path.stem for path in (ENV / "presets").glob("*"))
DERIVED = [setting for setting in catalogue.all_settings() if setting.derivation]


def _without_values(text: str) -> str:
    return re.sub(r"(?m)^([A-Z_]+)=.*$", r"\1=", text)


def test_stack_env_lists_and_explains_what_the_table_does() -> None:
    found = (ENV / "stack.env").read_text()
    assert _without_values(found) == _without_values(envdoc.document())
    assert len(found.splitlines()) <= 160


def test_stack_env_passes_every_rule() -> None:
    assert messages(check(ENV / "stack.env")) == ""


def test_the_reference_of_settings_is_up_to_date() -> None:
    again = "python -m infra.config.envdoc settings.md > docs/settings.md"
    assert (REPOSITORY / "docs" / "settings.md").read_text() == envdoc.reference(), again


def test_every_setting_that_compose_reads_is_listed() -> None:
    assert all(setting.listed for setting in catalogue.all_settings() if setting.compose)


def test_the_link_for_compose_points_to_stack_env() -> None:
    link = REPOSITORY / ".env"
    assert link.is_symlink()
    assert link.readlink() == Path("infra/env/stack.env")


def test_the_presets_are_those_that_the_documents_name() -> None:
    assert PRESETS == ["laptop", "large", "medium", "small"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_which_machine_it_is_for_and_why_each_value(name: str) -> None:
    text = (ENV / "presets" / f"{name}.env").read_text()
    header, _, rest = text.partition("\n\n")
    assert re.search(r"cores.*GB of\s(# )?memory", header, re.DOTALL)
    assert rest.startswith("#")


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "laptop"])
def test_a_preset_gives_only_what_differs(name: str) -> None:
    path = ENV / "presets" / f"{name}.env"
    assigned = assign(envfile.read(path, name=name), overlay=True)
    defaults = assign(envfile.parse("", name=name), overlay=True).values
    entries = [entry.name for entry in envfile.read(path, name=name).entries]
    assert assigned.faults == ()
    assert [one for one in entries if assigned.values[one] == defaults[one]] == []


def test_the_laptop_preset_gives_the_defaults_of_what_compose_reads() -> None:
    path = ENV / "presets" / "laptop.env"
    given = {entry.name for entry in envfile.read(path, name="laptop").entries}
    assert given == {setting.name for setting in catalogue.all_settings() if setting.compose}
    assert check(path).values.as_dict() == catalogue.defaults().as_dict()


@pytest.mark.parametrize("setting", DERIVED, ids=lambda setting: setting.name)
def test_a_derived_default_is_the_table_s_with_the_other_defaults(setting: Setting) -> None:
    assert str(setting.derived(catalogue.defaults())) == str(setting.default)


@pytest.mark.parametrize("setting", DERIVED, ids=lambda setting: setting.name)
def test_a_derived_default_follows_from_settings_that_are_not_derived(setting: Setting) -> None:
    assert setting.derivation is not None
    sources = [catalogue.by_name()[name] for name in setting.derivation.sources]
    assert sources
    assert all(source.derivation is None for source in sources)
    assert all(source.name in setting.derivation.formula for source in sources)


@pytest.mark.parametrize("seconds", [Decimal(n) / 2 for n in range(10, 49)])
def test_every_request_deadline_from_5_s_gives_a_chain_that_holds(
    tmp_path: Path, seconds: Decimal
) -> None:
    assert _faults(tmp_path, API_REQUEST_DEADLINE_SECONDS=seconds) == ""


@pytest.mark.parametrize("seconds", [*range(8, 60), 120, 600, 3600])
def test_every_batch_deadline_from_8_s_gives_a_chain_that_holds(
    tmp_path: Path, seconds: int
) -> None:
    # As long as the statement and the wait for a server fit into it.
    wait = {"API_REQUEST_DEADLINE_SECONDS": 5} if seconds < 10 else {}
    assert _faults(tmp_path, WORKER_BATCH_DEADLINE_SECONDS=seconds, **wait) == ""


def test_a_value_that_is_given_counts_and_is_judged(tmp_path: Path) -> None:
    found = _faults(tmp_path, API_REQUEST_DEADLINE_SECONDS=5, API_STATEMENT_TIMEOUT_MS=3000)
    assert (
        "API_STATEMENT_TIMEOUT_MS=3000 must be below "
        "API_IDLE_IN_TRANSACTION_TIMEOUT_MS=2500 (derived)" in found
    )


def test_a_faulty_source_leaves_what_follows_from_it_unjudged(tmp_path: Path) -> None:
    assert _faults(tmp_path, API_REQUEST_DEADLINE_SECONDS="soon").count("\n") == 0


def _faults(directory: Path, **changes: object) -> str:
    path = directory / "stack.env"
    path.write_text(envfile.edit((ENV / "stack.env").read_text(), changes))
    return messages(check(path))


def test_every_setting_named_in_a_rule_exists() -> None:
    names = set(catalogue.by_name())
    for setting in catalogue.all_settings():
        mentioned = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", f"{setting.rule} {setting.meaning}"))
        assert mentioned <= names
