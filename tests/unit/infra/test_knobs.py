"""The knob table, and every knob at and beyond the edges of its range."""

from decimal import Decimal

import pytest

from infra.compiler import catalogue
from infra.compiler.knobs import BadValueError, Knob, Tier

KNOBS = catalogue.all_knobs()
NUMBERS = [knob for knob in KNOBS if not knob.choices]
CHOICES = [knob for knob in KNOBS if knob.choices]


def _step(knob: Knob) -> Decimal:
    return Decimal("0.000001") if isinstance(knob.default, Decimal) else Decimal(1)


@pytest.mark.parametrize("knob", NUMBERS, ids=lambda knob: knob.name)
def test_the_edges_of_the_range_are_accepted(knob: Knob) -> None:
    assert Decimal(knob.parse(str(knob.minimum))) == Decimal(knob.minimum)
    assert Decimal(knob.parse(str(knob.maximum))) == Decimal(knob.maximum)


@pytest.mark.parametrize("knob", NUMBERS, ids=lambda knob: knob.name)
def test_just_beyond_the_range_is_refused(knob: Knob) -> None:
    for beyond in (Decimal(knob.minimum) - _step(knob), Decimal(knob.maximum) + _step(knob)):
        with pytest.raises(BadValueError, match="is outside") as refusal:
            knob.parse(f"{beyond:f}")
        assert knob.name in str(refusal.value)
        assert knob.range in str(refusal.value)


@pytest.mark.parametrize("knob", CHOICES, ids=lambda knob: knob.name)
def test_only_the_choices_are_accepted(knob: Knob) -> None:
    assert [knob.parse(choice) for choice in knob.choices] == list(knob.choices)
    with pytest.raises(BadValueError, match="is not one of"):
        knob.parse("nonsense")


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_the_default_is_a_value_of_the_knob(knob: Knob) -> None:
    assert knob.parse(str(knob.default)) == knob.default


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_every_knob_is_described(knob: Knob) -> None:
    assert knob.meaning.endswith(".")
    assert knob.unit
    assert not knob.rule.endswith(".")


def test_names_are_unique() -> None:
    assert len(catalogue.by_name()) == len(KNOBS)


def test_knobs_are_grouped_by_tier_in_the_order_of_the_env_file() -> None:
    order = list(Tier)
    positions = [order.index(knob.tier) for knob in KNOBS]
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
        catalogue.by_name()["APP_LOG_LEVEL"].parse("WARNIGN")
