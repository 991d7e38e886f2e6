"""Which fields change live, and that the setting table tells operators the same."""

import json

import pytest
from pydantic import ValidationError

from app.settings import LIVE_FIELDS, ApiSettings, Live, WorkerSettings, differing, flat, merged
from infra.config import catalogue, documents
from infra.config.settings import Change, Setting, Value, Values
from tests.unit.service.conftest import API, WORKER


def worker(**changed: object) -> WorkerSettings:
    document = json.loads(json.dumps(WORKER))
    for name, value in changed.items():
        section, field = name.split("__")
        document[section][field] = value
    return WorkerSettings.model_validate(document)


def test_live_fields_are_taken_over_and_the_others_are_not() -> None:
    result = merged(worker(), worker(pool__max_size=9, pool__timeout_seconds=1.0))
    assert (result.pool.max_size, result.pool.timeout_seconds) == (9, 2.0)


def test_differences_are_named_by_section_and_field() -> None:
    assert differing(worker(), worker(pool__max_size=9, log__level="DEBUG")) == (
        "log.level",
        "pool.max_size",
    )
    assert differing(worker(), worker()) == ()


def test_a_live_value_that_does_not_go_with_what_stays_is_refused() -> None:
    wanted = worker(worker__threads=1, pool__max_size=2)
    with pytest.raises(ValidationError, match="a thread would wait for another thread"):
        merged(worker(worker__threads=4), wanted)


def test_whoever_asks_the_holder_gets_the_new_settings() -> None:
    live = Live(worker())
    live.replace(worker(worker__batch_tasks=7))
    assert live.current.worker.batch_tasks == 7


def test_every_live_field_is_one_of_a_service() -> None:
    known = {*flat(ApiSettings.model_validate(API)), *flat(WorkerSettings.model_validate(WORKER))}
    assert known >= LIVE_FIELDS


def compiled(values: Values) -> dict[str, object]:
    """Return the fields of both services as the compiler renders them."""
    settings = (
        ApiSettings.model_validate(documents.api(values)),
        WorkerSettings.model_validate(documents.worker(values)),
    )
    return {f"{one.service}.{name}": value for one in settings for name, value in flat(one).items()}


def another(setting: Setting) -> Value:
    """Return a value in range that is not the default."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if isinstance(setting.default, str):
        return "192.0.2.1"
    step = 1 if isinstance(setting.default, int) else setting.default / 10
    more = setting.default + step
    return more if more <= setting.maximum else setting.default - step  # type: ignore[operator]


@pytest.mark.parametrize("setting", catalogue.all_settings(), ids=lambda setting: setting.name)
def test_the_setting_table_says_live_where_the_app_takes_it_live(setting: Setting) -> None:
    defaults = catalogue.defaults()
    changed = Values(defaults.as_dict() | {setting.name: another(setting)})
    before, after = compiled(defaults), compiled(changed)
    fields = {name.split(".", 1)[1] for name in before if before[name] != after[name]}
    if fields:
        assert (fields <= LIVE_FIELDS) == (setting.change is Change.LIVE), fields
