"""Waiting for a condition with a deadline."""

from __future__ import annotations

import itertools

from infra.ops.waiting import gone, wait_until


def test_what_is_found_is_returned_at_once() -> None:
    looks = itertools.count(1)
    assert wait_until(lambda: next(looks), seconds=60, every=60) == 1


def test_it_looks_until_nothing_is_left() -> None:
    left = iter([["a", "b"], ["b"], []])
    assert wait_until(lambda: next(left), gone, seconds=60, every=0.0) == []


def test_when_the_time_is_over_what_was_found_last_is_returned() -> None:
    looks = itertools.count(1)
    last = wait_until(lambda: next(looks), lambda _: False, seconds=0.05, every=0.01)
    assert 1 < last == next(looks) - 1


def test_without_any_time_it_looks_once() -> None:
    looks = iter([0])
    assert wait_until(lambda: next(looks), seconds=-1.0, every=60) == 0
