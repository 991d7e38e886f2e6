"""What each worker thread does, turn after turn, until it is stopped."""

import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from uuid import UUID

import psycopg

from app.assessments.batch import Batch, Task
from app.assessments.tasks import (
    ClaimRules,
    Ended,
    Lost,
    claim,
    fail_lost,
    find_claim,
    find_lost,
    finish,
    release,
)
from app.database import Database, Work
from app.log import get_logger
from app.metrics import WorkMetrics
from app.pool import DatabaseUnavailable, Deadline
from app.settings import Live, WorkerSettings, WorkSettings
from app.worker.batch import BatchRunner, jittered
from app.worker.idle import Idle

CALL_SECONDS = 10.0
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 2.0
# At most so often, and no more often than an idle worker polls: what lost its last lease fails
# within WORKER_POLL_INTERVAL_MAX_MS, as what lost another is claimed again.
SWEEP_SECONDS = 2.0
# So often the database may go away under a task before that uses up an attempt of it.
INTERRUPTIONS_MAX = 5
INTERRUPTED_TASKS_MAX = 100_000
# After an outage, for so long, leases that ran out are left to their holders to give back.
RECOVERY_SECONDS = 5.0
log = get_logger("app.worker")


class SweepTimer:
    """Gives one thread at a time the sweep that is due."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._next = 0.0

    def take(self) -> bool:
        """Return True, and start the next interval, when a sweep is due."""
        with self._lock:
            if time.monotonic() < self._next:
                return False
            self._next = time.monotonic() + self._seconds
            return True


class Interruptions:
    """Counts how often the database went away under each task that this worker had in hand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[UUID, int, Task]] = Counter()

    def excuse(self, batch: Batch) -> bool:
        """Count one for each task; return True while it may be the database's fault alone.

        A task that was in hand again and again may be what takes the server down.
        """
        keys = [
            (batch.assessment_id, batch.site_no, replace(task, attempt=0)) for task in batch.tasks
        ]
        with self._lock:
            if len(self._counts) >= INTERRUPTED_TASKS_MAX:
                self._counts.clear()
            self._counts.update(keys)
            return max(self._counts[key] for key in keys) <= INTERRUPTIONS_MAX


@dataclass(slots=True)
class Shared:
    """What the threads of one worker have in common.

    `quarantine` is held by the one thread that has a task in hand that was tried before:
    should it kill the process, it takes only first attempts of other tasks with it.
    Until `recovering_until` (monotonic) every thread keeps to tasks not tried before.
    """

    database: Database
    live: Live[WorkerSettings]
    metrics: WorkMetrics
    runner: BatchRunner
    stop: threading.Event
    idle: Idle
    quarantine: threading.Lock = field(default_factory=threading.Lock)
    sweep: SweepTimer = field(default_factory=lambda: SweepTimer(SWEEP_SECONDS))
    interruptions: Interruptions = field(default_factory=Interruptions)
    recovering_until: float = float("-inf")

    @property
    def settings(self) -> WorkSettings:
        """Return the running settings."""
        return self.live.current.worker


class WorkLoop:
    """One thread's loop: claim, process, finish; idle and back off in between."""

    def __init__(self, shared: Shared, name: str) -> None:
        self._shared = shared
        self._name = name
        self._backoff_seconds = BACKOFF_FIRST_SECONDS
        self._unfinished: UUID | None = None
        # The token of a claim without an answer: what it leased, if anything, nobody works on.
        self._unanswered: str | None = None
        self._idle = False
        self.crashed = False
        self.in_hand: Batch | None = None
        self.last_turn_at = time.monotonic()

    def run(self) -> None:
        """Take turns until the stop event is set; only a bug of ours escapes."""
        while not self._shared.stop.is_set():
            self.last_turn_at = time.monotonic()
            if self._idle and not self._shared.idle.wait():
                continue
            self._idle = False
            try:
                self._idle = not self._turn()
                self._backoff_seconds = BACKOFF_FIRST_SECONDS
            except DatabaseUnavailable as error:
                self._back_off("database_unavailable", error.reason)
                self._shared.recovering_until = time.monotonic() + RECOVERY_SECONDS
                self._shared.idle.expect(RECOVERY_SECONDS)
            except psycopg.Error as error:
                # A schema that is not there yet, a right that is missing: an operator
                # fixes those, and the worker goes on.
                self._back_off("database_error", f"{type(error).__name__}: {error}")

    def _turn(self) -> bool:
        """Do one batch; return False when there was nothing to do."""
        self.give_back(Deadline.after(CALL_SECONDS))
        self.in_hand = None
        recovering = time.monotonic() < self._shared.recovering_until
        if not recovering and self._shared.sweep.take():
            self._sweep()
        quarantine = self._shared.quarantine
        holding = not recovering and quarantine.acquire(blocking=False)
        try:
            batch = self._claim(fresh_only=not holding)
            self._shared.idle.claimed(found=batch is not None)
            if holding and not (batch is not None and batch.retried):
                quarantine.release()
                holding = False
            self._finish_previous(batch)
            if batch is not None:
                self._process(batch)
            return batch is not None
        finally:
            if holding:
                quarantine.release()

    def _process(self, batch: Batch) -> None:
        self._unfinished = batch.assessment_id
        try:
            retried = self._shared.runner.process(batch)
        except psycopg.ProgrammingError:
            # No task's doing: a schema or a right is missing. Given back with the next turn.
            raise
        except (DatabaseUnavailable, psycopg.Error):
            # Given back likewise, so that no attempt is used up; or else its lease runs out.
            if not self._shared.interruptions.excuse(batch):
                self.in_hand = None
            raise
        self.in_hand = None
        if retried:
            self._shared.idle.expect(self._shared.settings.retry_delay_seconds)
        if self._shared.stop.is_set():
            self._finish_previous(None)

    def _claim(self, *, fresh_only: bool) -> Batch | None:
        settings = self._shared.settings
        rules = ClaimRules(
            settings.batch_tasks, settings.lease_seconds, settings.attempts_max, fresh_only
        )
        # Fresh for every claim, so that it also distinguishes this claim from our own earlier ones.
        token = f"{self._name}/{uuid.uuid4().hex}"
        self._unanswered = token
        batch = self._shared.database.run(
            lambda connection: claim(connection, rules, token),
            deadline=Deadline.after(CALL_SECONDS),
            name="claim",
            lookup=lambda connection: find_claim(connection, token),
        )
        # Whatever fails from here on, the next turn gives it back, or the end of the worker.
        self.in_hand, self._unanswered = batch, None
        return batch

    def _find(self, token: str, deadline: Deadline) -> Batch | None:
        """Return what a claim leased whose answer did not come in time."""
        return self._shared.database.run(
            lambda connection: find_claim(connection, token),
            deadline=deadline,
            name="find claim",
            idempotent=True,
        )

    def _finish_previous(self, batch: Batch | None) -> None:
        """End the assessment this thread worked on once it has nothing left to claim."""
        previous = self._unfinished
        if previous is None or (batch is not None and batch.assessment_id == previous):
            return
        self._finish(previous)
        self._unfinished = None

    def _finish(self, assessment_id: UUID | None) -> None:
        ended: Ended = self._shared.database.run(
            lambda connection: finish(connection, assessment_id),
            deadline=Deadline.after(CALL_SECONDS),
            name="finish",
            idempotent=True,
        )
        for ended_id, status in ended:
            log.info("assessment ended", assessment_id=str(ended_id), status=status)

    def _sweep(self) -> None:
        """Fail tasks that lost their last lease; end assessments whose finisher died."""
        attempts_max = self._shared.settings.attempts_max
        tried: Lost = []

        def work(connection: Work) -> Lost:
            nonlocal tried
            tried = fail_lost(connection, attempts_max)
            return tried

        lost = self._shared.database.run(
            work,
            deadline=Deadline.after(CALL_SECONDS),
            name="fail lost",
            lookup=lambda connection: find_lost(connection, tried),
        )
        self._shared.metrics.failed.inc(len(lost))
        for assessment_id, site_no, scenario, year, error in lost:
            log.error(
                "task failed",
                assessment_id=str(assessment_id),
                site_no=site_no,
                scenario=scenario,
                year=year,
                last=True,
                error=error,
            )
        self._finish(None)

    def give_back(self, deadline: Deadline) -> None:
        """Release the batch in hand, or what a claim without an answer leased, if any.

        For use once the thread cannot finish it. Raises DatabaseUnavailable, psycopg.Error.
        """
        if self._unanswered is not None:
            self.in_hand = self._find(self._unanswered, deadline)
            self._unanswered = None
        batch = self.in_hand
        if batch is None:
            return
        count = self._shared.database.run(
            lambda connection: release(connection, batch),
            deadline=deadline,
            name="release",
            idempotent=True,
        )
        self._shared.metrics.released.inc(count)
        log.warning(
            "leases given back",
            assessment_id=str(batch.assessment_id),
            site_no=batch.site_no,
            tasks=count,
        )

    def _back_off(self, kind: str, reason: str) -> None:
        self._shared.metrics.loop_errors.labels(kind).inc()
        log.warning("turn failed", kind=kind, reason=reason, pause=self._backoff_seconds)
        self._shared.stop.wait(jittered(self._backoff_seconds))
        self._backoff_seconds = min(self._backoff_seconds * 2, BACKOFF_MAX_SECONDS)
