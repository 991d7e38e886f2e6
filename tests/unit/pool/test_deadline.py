"""Deadlines are points in time: passing one on never grants more of it."""

from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from app.pool import Deadline

SECONDS = st.floats(min_value=-1e6, max_value=1e6)


@given(SECONDS)
def test_what_remains_is_never_negative_nor_more_than_was_given(seconds: float) -> None:
    assert 0.0 <= Deadline.after(seconds).remaining() <= max(0.0, seconds)


@given(st.floats(max_value=0.0, min_value=-1e6))
def test_nothing_left_means_expired(seconds: float) -> None:
    assert Deadline.after(seconds).expired


@given(SECONDS, SECONDS)
def test_a_sooner_deadline_is_never_later_than_either(first: float, second: float) -> None:
    deadline = Deadline.after(first)
    sooner = deadline.sooner(second)
    assert sooner.at <= deadline.at
    assert sooner.at <= monotonic() + second


def test_an_infinite_deadline_never_expires() -> None:
    assert not Deadline.after(float("inf")).expired
