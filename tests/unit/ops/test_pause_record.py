"""The record of a pause: who may begin one, and what a dead-man sees of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from infra.ops import pause_record
from infra.ops.outcome import RefusedError
from infra.ops.pause import PauseLimits, _must_act
from infra.ops.pause_record import NoDeadManError, PauseRecord, Phase
from tests.fix_stack import poll

LIMITS = PauseLimits(5, 8, 15, 20)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause_record, "_DEAD_MAN_STARTS_SECONDS", 0.2)
    monkeypatch.setattr(pause_record, "_LOCK_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_no_pause_begins_without_a_dead_man(tmp_path: Path) -> None:
    with (
        pytest.raises(NoDeadManError, match="restart-postgres"),
        pause_record.pause_record(tmp_path),
    ):
        pytest.fail("it began")
    with pause_record.orphaned(tmp_path) as (record, free):
        assert free
        assert record is None


def test_a_pause_that_is_held_is_not_orphaned_and_ends_as_over(tmp_path: Path) -> None:
    with pause_record.watching(tmp_path), pause_record.pause_record(tmp_path) as held:
        with pause_record.orphaned(tmp_path) as (record, free):
            assert not free
            assert record
            assert record.phase is Phase.PAUSED
        held.over()
    with pause_record.orphaned(tmp_path) as (record, free):
        assert free
        assert record
        assert record.phase is Phase.OVER


def test_a_pause_that_was_not_ended_is_left_to_the_dead_man(tmp_path: Path) -> None:
    with pause_record.watching(tmp_path), pause_record.pause_record(tmp_path):
        pass
    pause_record.operation_over(tmp_path)
    with pause_record.orphaned(tmp_path) as (record, free):
        assert _must_act(record, LIMITS, free=free)


@pytest.mark.usefixtures("impatient")
def test_two_pauses_at_once_are_refused(tmp_path: Path) -> None:
    with (
        pause_record.watching(tmp_path),
        pause_record.pause_record(tmp_path),
        pytest.raises(RefusedError, match="another command"),
        pause_record.pause_record(tmp_path),
    ):
        pytest.fail("the second began")


def hold(directory: Path) -> None:
    with pause_record.watching(directory), pause_record.pause_record(directory):
        signal.pause()


def test_a_killed_holder_is_seen_at_once(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path,))
    holder.start()

    def held() -> bool:
        with pause_record.orphaned(tmp_path) as (record, free):
            return bool(record) and not free

    poll(held, seconds=10, what="the holder holds its record", every=0.02)
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    with pause_record.orphaned(tmp_path) as (record, free):
        assert free
        assert _must_act(record, LIMITS, free=free)


def test_a_holder_that_hangs_is_given_the_settings_time() -> None:
    now = time.monotonic()
    young, old = PauseRecord(Phase.PAUSED, now - 10), PauseRecord(Phase.PAUSED, now - 21)
    assert not _must_act(young, LIMITS, free=False)
    assert _must_act(old, LIMITS, free=False)
    assert not _must_act(PauseRecord(Phase.OVER, now - 21), LIMITS, free=True)
    assert not _must_act(None, LIMITS, free=True)
