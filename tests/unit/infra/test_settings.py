"""The setting table, and every setting at and beyond the edges of its range."""

from decimal import Decimal

import pytest

from infra.config import catalogue
from infra.config.settings import BadValueError, Setting, Tier

SETTINGS = catalogue.all_settings()
NUMBERS = [setting for setting in SETTINGS if not (setting.choices or setting.form)]
CHOICES = [setting for setting in SETTINGS if setting.choices]


def _step(setting: Setting) -> Decimal:
    return Decimal("0.000001") if isinstance(setting.default, Decimal) else Decimal(1)


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_the_edges_of_the_range_are_accepted(setting: Setting) -> None:
    assert Decimal(setting.parse(str(setting.minimum))) == Decimal(setting.minimum)
    assert Decimal(setting.parse(str(setting.maximum))) == Decimal(setting.maximum)


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_just_beyond_the_range_is_refused(setting: Setting) -> None:
    for beyond in (
        Decimal(setting.minimum) - _step(setting),
        Decimal(setting.maximum) + _step(setting),
    ):
        with pytest.raises(BadValueError, match="is outside") as refusal:
            setting.parse(f"{beyond:f}")
        assert setting.name in str(refusal.value)
        assert setting.range in str(refusal.value)


@pytest.mark.parametrize("setting", CHOICES, ids=lambda setting: setting.name)
def test_only_the_choices_are_accepted(setting: Setting) -> None:
    assert [setting.parse(choice) for choice in setting.choices] == list(setting.choices)
    with pytest.raises(BadValueError, match="is not one of"):
        setting.parse("nonsense")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_default_is_a_value_of_the_setting(setting: Setting) -> None:
    assert setting.parse(str(setting.default)) == setting.default


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_described(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert setting.unit
    assert not setting.rule.endswith(".")


def test_names_are_unique() -> None:
    assert len(catalogue.by_name()) == len(SETTINGS)


def test_settings_are_grouped_by_tier_in_the_order_of_the_env_file() -> None:
    order = list(Tier)
    positions = [order.index(setting.tier) for setting in SETTINGS]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("name", "text", "unit"),
    [
        ("PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS", "20s", "'s'"),
        ("POSTGRES_MEMORY_MB", "512MB", "'MB'"),
        ("POSTGRES_SHARED_BUFFERS_PERCENT", "25%", "'%'"),
        ("API_REQUEST_DEADLINE_SECONDS", "10.5s", "'s'"),
    ],
)
def test_a_unit_behind_the_number_is_named(name: str, text: str, unit: str) -> None:
    with pytest.raises(BadValueError, match="write the number alone") as refusal:
        catalogue.by_name()[name].parse(text)
    assert f"{name}={text} carries the unit {unit}" in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.5", "0x10", "1e3", "+5", "--5", "1_000", "٣", "nan", "9" * 40],
)
def test_only_plain_whole_numbers_are_whole_numbers(text: str) -> None:
    with pytest.raises(BadValueError):
        catalogue.by_name()["API_THREADS"].parse(text)


@pytest.mark.parametrize("text", ["", ".5", "5.", "1e1", "nan", "inf", "1,5", "1.1234567"])
def test_only_plain_decimals_are_decimals(text: str) -> None:
    with pytest.raises(BadValueError):
        catalogue.by_name()["POSTGRES_CPUS"].parse(text)


def test_a_misspelt_choice_gets_a_suggestion() -> None:
    with pytest.raises(BadValueError, match=r"did you mean WARNING\?"):
        catalogue.by_name()["API_LOG_LEVEL"].parse("WARNIGN")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::7", "2001:db8::7"),
    ],
)
def test_an_address_is_an_ipv4_or_ipv6_address(text: str, value: str) -> None:
    assert catalogue.by_name()["API_BIND_ADDRESS"].parse(text) == value


@pytest.mark.parametrize(
    "text", ["localhost", "127.1", "127.0.0.1:80", "[::1]", "fe80::1%eth0", "0"]
)
def test_what_is_no_address_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(BadValueError, match="write an IPv4 or IPv6 address without brackets"):
        catalogue.by_name()["API_BIND_ADDRESS"].parse(text)


@pytest.mark.parametrize("text", ["none", "options", "extra_float_digits,options", "options,jit"])
def test_a_list_of_ignored_startup_parameters_is_none_or_has_options(text: str) -> None:
    assert catalogue.by_name()["PGBOUNCER_IGNORE_STARTUP_PARAMETERS"].parse(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("extra_float_digits", "lacks options, without which a list is not safe"),
        ("options,", "has '', which is no parameter's name"),
        ("Options", "has 'Options', which is no parameter's name"),
        ("options;x", "has 'options;x', which is no parameter's name"),
    ],
)
def test_a_list_of_ignored_startup_parameters_without_options_is_refused(
    text: str, why: str
) -> None:
    setting = catalogue.by_name()["PGBOUNCER_IGNORE_STARTUP_PARAMETERS"]
    with pytest.raises(BadValueError, match=why) as refusal:
        setting.parse(text)
    assert str(refusal.value).startswith(f"PGBOUNCER_IGNORE_STARTUP_PARAMETERS={text}")
    assert "options among them, or none" in str(refusal.value)
