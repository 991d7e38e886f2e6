"""The record of a pause: who may begin one, what a dead-man sees of it, and what it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from infra.ops import pause, pause_record
from infra.ops.clients import pgbouncer
from infra.ops.outcome import Exit, FailedError, RefusedError
from infra.ops.pause import CannotPauseError, PauseLimits, _must_act
from infra.ops.pause_record import NoDeadManError, PauseRecord, Phase
from tests.fix_stack import poll
from tests.unit.ops.support import POOLERS, SETTINGS

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


@pytest.mark.parametrize(
    ("left", "error"), [([], CannotPauseError), (["pgbouncer-2: silent"], FailedError)]
)
def test_a_pause_that_failed_says_who_may_not_serve_again(
    monkeypatch: pytest.MonkeyPatch, left: list[str], error: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise CannotPauseError("pgbouncer-2: no answer to PAUSE")

    monkeypatch.setattr(pause, "_connect", refuse)
    monkeypatch.setattr(pause, "release", lambda *_, **__: left)
    released: list[bool] = []
    with (
        pytest.raises(error, match=r"no answer to PAUSE.*" + "".join(left)) as raised,
        pause.paused(
            SETTINGS,
            POOLERS,
            LIMITS,
            shield=nullcontext,
            on_released=lambda: released.append(True),
        ),
    ):
        pytest.fail("it began")
    assert raised.type is error
    assert released == [True] * (not left)


@pytest.mark.parametrize(
    ("answers", "code"), [([["pgbouncer-2: silent"], []], Exit.OK), ([["silent"]], Exit.FAILED)]
)
def test_a_dead_man_goes_on_until_every_replica_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[list[str]], code: int
) -> None:
    left = iter(answers)
    monkeypatch.setattr(pause, "limits", lambda _: LIMITS)
    monkeypatch.setattr(pause, "release", lambda *_, **__: next(left, answers[-1]))
    monkeypatch.setattr(pause, "DEAD_MAN_LIFETIME_SECONDS", 1.0)
    monkeypatch.setattr(pgbouncer, "replicas", lambda _: POOLERS)
    codes: list[int] = []
    watcher = threading.Thread(target=lambda: codes.append(pause.watch(SETTINGS, tmp_path)))
    watcher.start()
    with pause_record.pause_record(tmp_path):
        pass
    watcher.join(30)
    assert codes == [code]
    with pause_record.orphaned(tmp_path) as (record, _):
        assert record
        assert (record.phase is Phase.OVER) is (code == Exit.OK)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_dead_man_watches_this_operation_whatever_one_before_a_reboot_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    # The clock of the record begins anew with the host.
    later = time.monotonic() + 864_000
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: later)
        pause_record.mark_over(tmp_path)
        if phase is Phase.PAUSED:
            with pause_record.watching(tmp_path), pause_record.pause_record(tmp_path):
                pass
    resumed: list[object] = []

    def release(settings: object, *_: object) -> list[str]:
        resumed.append(settings)
        return []

    monkeypatch.setattr(pause, "limits", lambda _: LIMITS)
    monkeypatch.setattr(pause, "release", release)
    monkeypatch.setattr(pause, "DEAD_MAN_LIFETIME_SECONDS", 20.0)
    monkeypatch.setattr(pause, "DEAD_MAN_POLL_SECONDS", 0.02)
    monkeypatch.setattr(pgbouncer, "replicas", lambda _: POOLERS)
    codes: list[int] = []
    watcher = threading.Thread(target=lambda: codes.append(pause.watch(SETTINGS, tmp_path)))
    watcher.start()
    poll(lambda: len(resumed) == (phase is Phase.PAUSED), seconds=10, what="the old pause is over")
    time.sleep(0.2)
    assert codes == []
    with pause_record.pause_record(tmp_path) as held:
        held.over()
    watcher.join(10)
    assert codes == [Exit.OK]
