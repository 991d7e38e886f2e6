"""When idle threads look for work: one at a time, at growing intervals, and at once when called."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.settings import WorkSettings
from app.worker import idle
from app.worker.idle import Idle
from tests.fix_stack import poll

FIRST, LONGEST, ANSWER = 0.5, 5.0, 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def work(worker_document: dict[str, Any]) -> WorkSettings:
    intervals = {"poll_interval_seconds": FIRST, "poll_interval_max_seconds": LONGEST}
    return WorkSettings.model_validate(worker_document["worker"] | intervals)


@pytest.fixture
def room(work: WorkSettings, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Idle:
    """Return a room whose waits return at once and whose pauses have no jitter."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    monkeypatch.setattr(idle, "ATTENDANCE_SECONDS", 0.0)
    return Idle(lambda: work, ANSWER, clock)


def pauses(room: Idle, clock: Clock) -> Iterator[float]:
    """Poll without success; yield the time from each poll to the next."""
    while True:
        room.claimed(found=False)
        asked = clock.now
        while not room.wait():
            clock.now += 0.125
        yield clock.now - asked


def test_pauses_double_up_to_the_longest(room: Idle, clock: Clock) -> None:
    found = list(itertools.islice(pauses(room, clock), 6))
    assert found == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_find_starts_the_pauses_anew(room: Idle, clock: Clock) -> None:
    list(itertools.islice(pauses(room, clock), 6))
    room.claimed(found=True)
    assert next(pauses(room, clock)) == FIRST


def test_threads_that_run_out_of_work_together_poll_after_the_shortest_pause(
    room: Idle, clock: Clock
) -> None:
    for _ in range(4):
        room.claimed(found=False)
    assert next(pauses(room, clock)) == FIRST


def test_a_lower_limit_holds_at_once(room: Idle, clock: Clock, work: WorkSettings) -> None:
    list(itertools.islice(pauses(room, clock), 6))
    room._settings = lambda: work.model_copy(update={"poll_interval_max_seconds": 1.0})
    assert next(pauses(room, clock)) == 1.0


def test_jitter_never_makes_a_pause_longer_than_the_limit(
    work: WorkSettings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "ATTENDANCE_SECONDS", 0.0)
    room = Idle(lambda: work, ANSWER, clock)
    found = list(itertools.islice(pauses(room, clock), 200))[10:]
    assert all(LONGEST / 2 <= pause <= LONGEST + 0.125 for pause in found)
    assert len(set(found)) > 5


def test_while_one_polls_nobody_else_does(room: Idle, clock: Clock) -> None:
    assert room.wait()
    assert not room.wait()
    clock.now += ANSWER
    assert room.wait(), "a poll without an answer must not be the last"


def test_a_call_lets_one_thread_claim_before_its_time(room: Idle) -> None:
    room.claimed(found=False)
    assert not room.wait()
    room.call()
    room.call()
    assert room.wait()
    assert not room.wait(), "calls must not add up"


def test_a_call_during_a_poll_is_kept_for_the_next_that_waits(room: Idle) -> None:
    assert room.wait()
    room.call()
    room.claimed(found=False)
    assert room.wait()


def test_a_find_without_a_waiting_thread_calls_nobody(room: Idle) -> None:
    room.claimed(found=True)
    assert not room.wait()


def test_tasks_handed_back_are_asked_for_when_they_can_be_claimed(room: Idle, clock: Clock) -> None:
    list(itertools.islice(pauses(room, clock), 6))
    ready_at = clock.now + 3.25
    room.expect(3.25)
    room.expect(1.0)
    polled = []
    for pause in pauses(room, clock):
        assert pause <= FIRST or clock.now > ready_at
        polled.append(clock.now)
        if clock.now >= ready_at:
            break
    assert polled[-1] == ready_at


class Threads:
    """Threads that wait in one room until each was told to claim once."""

    def __init__(self, room: Idle, count: int, then: Callable[[], None]) -> None:
        self.claims = 0
        self.stop = False
        self._room = room
        self._then = then
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self.stop:
            if self._room.wait():
                with self._lock:
                    self.claims += 1
                self._then()
                return

    def end(self) -> None:
        self.stop = True
        self._room.stop()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize(("found", "claims"), [(True, 4), (False, 1)])
def test_each_find_calls_one_more_thread_until_a_claim_finds_nothing(
    work: WorkSettings, clock: Clock, found: bool, claims: int
) -> None:
    # No poll is ever due: whoever claims was called.
    room = Idle(lambda: work, ANSWER, clock)
    room.claimed(found=False)
    threads = Threads(room, 4, lambda: room.claimed(found=found))
    poll(lambda: room._waiting == 4, seconds=10, what="all wait", every=0.005)
    room.call()
    poll(lambda: threads.claims == claims, seconds=10, what="the chain ends", every=0.005)
    threads.end()
    assert threads.claims == claims


def test_a_stop_lets_every_waiting_thread_go(work: WorkSettings, clock: Clock) -> None:
    room = Idle(lambda: work, ANSWER, clock)
    room.claimed(found=False)
    threads = Threads(room, 4, lambda: None)
    poll(lambda: room._waiting == 4, seconds=10, what="all wait", every=0.005)
    threads.end()
    assert threads.claims == 0
