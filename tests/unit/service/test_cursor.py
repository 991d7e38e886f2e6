"""The paging cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assessments.read_results import ResultKey
from app.risk.types import YEARS, RiskType, Scenario

KEYS = st.builds(
    ResultKey,
    st.integers(0, 9999),
    st.sampled_from(Scenario),
    st.sampled_from(YEARS),
    st.sampled_from(RiskType),
)


@given(KEYS)
def test_a_cursor_reads_back_as_the_key_it_was_made_of(key: ResultKey) -> None:
    assert ResultKey.decode(key.encode()) == key


@given(st.text(max_size=60))
def test_any_other_text_is_refused_as_a_value_error(text: str) -> None:
    try:
        key = ResultKey.decode(text)
    except ValueError:
        return
    assert ResultKey.decode(key.encode()) == key


@pytest.mark.parametrize("text", ["", "====", "MC5TU1A", "\u00e9", "0.SSP126.2030.drought"])
def test_what_is_not_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        ResultKey.decode(text)
