"""One batch from claim to commit: read, assess, store, and account for what failed."""

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
import structlog

from app.assessments.batch import Batch, Task, TaskFailure, TaskResults, read_site, read_tasks
from app.assessments.tasks import FenceRefusedError, committed, complete, fail
from app.database import Database, Work
from app.log import describe, get_logger
from app.metrics import WorkMetrics
from app.pool import DatabaseUnavailable, Deadline
from app.risk import SiteModel
from app.settings import Live, WorkerSettings, WorkSettings

T = TypeVar("T")
SiteKey = tuple[int, str | None]
ERROR_CHARACTERS_MAX = 1000
OUTAGE_PAUSE_SECONDS = 0.5
# Site models that are kept. What was changed in the tables past the loader, which makes no new
# version, must show without a restart too.
CELLS_MAX = 256
AGE_MAX_SECONDS = 60.0
# Classes 22 and 23: all other errors of a statement are the schema's or the server's.
REFUSALS = (psycopg.DataError, psycopg.IntegrityError)
log = get_logger("app.worker")


class SiteModels:
    """A small least-recently-used cache of site models; safe for threads.

    By cell and version of the reference data: another grid numbers its cells anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._models: OrderedDict[SiteKey, tuple[float, SiteModel]] = OrderedDict()

    def get(self, key: SiteKey, load: Callable[[], SiteModel]) -> SiteModel:
        """Return the model of a cell; `load` makes it when there is none, or an old one.

        Loading happens outside the lock: two threads may both load, neither waits.
        """
        found = self._fresh(key)
        if found is not None:
            return found
        model = load()
        with self._lock:
            self._models[key] = (self._clock() + AGE_MAX_SECONDS, model)
            self._models.move_to_end(key)
            while len(self._models) > CELLS_MAX:
                self._models.popitem(last=False)
        return model

    def _fresh(self, key: SiteKey) -> SiteModel | None:
        with self._lock:
            entry = self._models.get(key)
            if entry is None or entry[0] < self._clock():
                return None
            self._models.move_to_end(key)
            return entry[1]


class BatchRunner:
    """Takes claimed batches to their end; one object serves every thread."""

    def __init__(
        self,
        database: Database,
        live: Live[WorkerSettings],
        metrics: WorkMetrics,
    ) -> None:
        self._database = database
        self._live = live
        self._metrics = metrics
        self._sites = SiteModels()

    @property
    def _settings(self) -> WorkSettings:
        return self._live.current.worker

    def process(self, batch: Batch) -> int:
        """Assess and store a batch within its deadline; return how many tasks are tried again.

        A task that raises is recorded and queued again or failed. DatabaseUnavailable
        escapes, and so does a psycopg.Error that no data of the task can explain; the batch
        is then still leased.
        """
        started = time.monotonic()
        deadline = Deadline.after(self._settings.batch_deadline_seconds)
        with structlog.contextvars.bound_contextvars(**_context(batch)):
            log.info("batch started")
            try:
                retried = self._work(batch, deadline)
            except FenceRefusedError:
                self._metrics.fenced.inc(len(batch.tasks))
                log.warning("fence refused", seconds=_since(started))
                return 0
            except DatabaseUnavailable as error:
                log.warning("batch given up", reason=error.reason, seconds=_since(started))
                raise
            self._metrics.batch_seconds.observe(time.monotonic() - started)
            log.info("batch completed", seconds=_since(started))
            return retried

    def _work(self, batch: Batch, deadline: Deadline) -> int:
        results, failures = self._assess(batch, deadline)
        try:
            return self._store(batch, results, failures, deadline)
        except REFUSALS as error:
            # A row that the tables refuse. Which task it belongs to shows on the next
            # attempt, where each comes alone.
            log.exception("results were refused by the database")
            return self._store(batch, [], _all_failed(batch, error), deadline)

    def _assess(
        self, batch: Batch, deadline: Deadline
    ) -> tuple[list[TaskResults], list[TaskFailure]]:
        try:
            inputs = self._read(
                "read tasks",
                lambda connection: read_tasks(connection, batch.cell_id, batch.tasks),
                deadline,
            )
            # It is read after the version that it is kept under, and so never older.
            key = batch.cell_id, inputs.version
            model = self._sites.get(key, lambda: self._load(batch.cell_id, deadline))
        except DatabaseUnavailable:
            raise
        except Exception as error:
            if isinstance(error, psycopg.Error) and not isinstance(error, REFUSALS):
                raise
            log.exception("inputs cannot be read")
            return [], _all_failed(batch, error)
        results, failures = [], []
        for task in batch.tasks:
            try:
                outcome = model.assess(inputs.tasks[task.scenario, task.year], batch.terms)
                results.append(TaskResults(task, outcome))
            except Exception as error:
                failures.append(_failure(task, error))
        return results, failures

    def _load(self, cell_id: int, deadline: Deadline) -> SiteModel:
        return SiteModel(
            self._read("read site", lambda connection: read_site(connection, cell_id), deadline)
        )

    def _store(
        self,
        batch: Batch,
        results: Sequence[TaskResults],
        failures: Sequence[TaskFailure],
        deadline: Deadline,
    ) -> int:
        # Read once: the setting may change between the commit and its lookup.
        attempts_max = self._settings.attempts_max

        def work(connection: Work) -> int:
            complete(connection, batch, results)
            return fail(
                connection,
                batch,
                failures,
                attempts_max=attempts_max,
                retry_delay_seconds=self._settings.retry_delay_seconds,
            )

        def lookup(connection: Work) -> int | None:
            # A stored outcome no longer names its failures; the fence says their attempts are ours.
            if not committed(connection, batch, len(results), failures):
                return None
            return sum(failure.task.attempt >= attempts_max for failure in failures)

        def attempt() -> int:
            return self._database.run(work, deadline=deadline, name="complete", lookup=lookup)

        def attempt_again() -> int:
            # The last try may have been committed without our hearing of it.
            found = self._database.run(
                lookup, deadline=deadline, name="complete lookup", read_only=True
            )
            return attempt() if found is None else found

        failed = self._outlast_outage(attempt, attempt_again, deadline)
        try:
            self._account(results, failures, failed)
        except Exception:
            # The outcome is stored: a wrong figure must not end the thread, and the process.
            log.exception("outcome is stored but not counted", code="accounting_failed")
        return len(failures) - failed

    def _read(self, name: str, work: Callable[[Work], T], deadline: Deadline) -> T:
        def attempt() -> T:
            return self._database.run(work, deadline=deadline, name=name, read_only=True)

        return self._outlast_outage(attempt, attempt, deadline)

    def _outlast_outage(
        self, attempt: Callable[[], T], attempt_again: Callable[[], T], deadline: Deadline
    ) -> T:
        """Repeat through an outage until the batch's deadline, which ends before its lease."""
        try:
            return attempt()
        except DatabaseUnavailable as error:
            last = error
        # Once: in a long outage every further try is refused at once.
        log.warning("waiting for the database", reason=last.reason)
        while not deadline.expired:
            time.sleep(min(jittered(OUTAGE_PAUSE_SECONDS), deadline.remaining()))
            try:
                return attempt_again()
            except DatabaseUnavailable as error:
                last = error
        raise last

    def _account(
        self, results: Sequence[TaskResults], failures: Sequence[TaskFailure], failed: int
    ) -> None:
        self._metrics.done.inc(len(results))
        self._metrics.failed.inc(failed)
        self._metrics.retried.inc(len(failures) - failed)
        for failure in failures:
            task = failure.task
            log.error(
                "task failed",
                scenario=task.scenario.value,
                year=task.year,
                attempt=task.attempt,
                last=task.attempt >= self._settings.attempts_max,
                error=failure.error,
            )


def _context(batch: Batch) -> dict[str, object]:
    first, last = batch.tasks[0], batch.tasks[-1]
    return {
        "assessment_id": str(batch.assessment_id),
        # Not its name, which is the caller's word.
        "site_no": batch.site_no,
        "tasks": len(batch.tasks),
        "first": f"{first.scenario}/{first.year}",
        "last": f"{last.scenario}/{last.year}",
        "attempt": first.attempt,
    }


def _since(started: float) -> float:
    return round(time.monotonic() - started, 4)


def _all_failed(batch: Batch, error: Exception) -> list[TaskFailure]:
    return [_failure(task, error) for task in batch.tasks]


def _failure(task: Task, error: Exception) -> TaskFailure:
    text = describe(error).replace("\x00", "")
    return TaskFailure(task, text.encode("utf-8", "replace").decode()[:ERROR_CHARACTERS_MAX])


def jittered(seconds: float) -> float:
    """Return a random wait between half and one and a half of the given one."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311  # spreads load, hides nothing
