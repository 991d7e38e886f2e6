"""When the idle threads of a worker look for work: one at a time, less and less often.

A thread whose turn found nothing waits here. While all wait, one of them polls at a time, first
after WORKER_POLL_INTERVAL_MS, then after pauses that double up to WORKER_POLL_INTERVAL_MAX_MS. A
claim that found something calls one more thread, whose claim calls the next, until one finds
nothing; so a submission that one thread notices is soon worked on by all.

What only a poll can notice waits for it: tasks of a worker that died are taken over, or fail, at
most WORKER_POLL_INTERVAL_MAX_MS after their lease ran out, and a round trip.
"""

import math
import random
import threading
import time
from collections.abc import Callable

from app.settings import WorkSettings

# So long at most a waiting thread is away from its loop, which shows that it is alive.
ATTENDANCE_SECONDS = 5.0


class Idle:
    """Where idle threads wait; `answer_seconds` is the most that a poll takes to its answer."""

    def __init__(
        self,
        settings: Callable[[], WorkSettings],
        answer_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._condition = threading.Condition()
        self._waiting = 0
        self._called = False
        self._stopped = False
        self._polled = False
        self._pause = 0.0
        self._poll_at = -math.inf
        self._expected_at = -math.inf

    def wait(self) -> bool:
        """Wait until a poll is due or this thread is called; return True if it is to claim.

        False means: come back, unless the worker is stopping.
        """
        with self._condition:
            self._waiting += 1
            try:
                seconds = min(self._poll_at - self._clock(), ATTENDANCE_SECONDS)
                if seconds > 0 and not self._called and not self._stopped:
                    self._condition.wait(seconds)
            finally:
                self._waiting -= 1
            if self._stopped or not (self._called or self._clock() >= self._poll_at):
                return False
            self._polled, self._called = not self._called, False
            # Nobody else polls before this one has its answer, which sets the time anew.
            self._poll_at = self._clock() + self._answer_seconds
            return True

    def claimed(self, *, found: bool) -> None:
        """Account for a claim's answer: set the time of the next poll; pass a find on."""
        with self._condition:
            settings, now = self._settings(), self._clock()
            shortest = settings.poll_interval_seconds
            # Threads that run out of work, and those that were called, do not make pauses longer.
            if self._polled and not found and now >= self._expected_at:
                longest = settings.poll_interval_max_seconds
                self._pause = min(max(self._pause * 2, shortest), longest)
            else:
                self._pause = shortest
            self._polled = False
            # Jitter keeps replicas from asking in step; downwards, so that the limit is one.
            self._poll_at = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311
            if now < self._expected_at:
                self._poll_at = min(self._poll_at, self._expected_at)
            if found and self._waiting:
                self._call()

    def call(self) -> None:
        """Have one thread claim now: the next that waits, if none does. Calls do not add up."""
        with self._condition:
            self._call()

    def expect(self, seconds: float) -> None:
        """Poll without longer pauses until tasks can be claimed, `seconds` from now, and then."""
        with self._condition:
            self._expected_at = max(self._expected_at, self._clock() + seconds)

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _call(self) -> None:
        self._called = True
        self._condition.notify()
