"""The worker's threads, with a stand-in database that answers by call name."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from app.assessments.batch import Batch, BatchInputs, Task, TaskFailure, TaskResults
from app.assessments.tasks import (
    AWAIT_CLAIM,
    CLAIM,
    FIND_CLAIM,
    FenceRefusedError,
    find_claim,
    find_lost,
)
from app.hint import HintSender
from app.metrics import WorkMetrics
from app.pool import DatabaseUnavailable, Deadline
from app.risk import SiteModel
from app.risk.types import AssetTerms, Scenario, SiteInputs, TaskInputs
from app.settings import HintSettings, Live, WorkerSettings
from app.worker import idle, loop
from app.worker.batch import AGE_MAX_SECONDS, CELLS_MAX, BatchRunner, SiteModels
from app.worker.crew import Crew
from app.worker.loop import INTERRUPTIONS_MAX
from tests.fix_stack import poll

from .conftest import STATE, StandInDatabase

ASSESSMENT = uuid.uuid4()
GIVE_UP_SECONDS = 10.0
ERRORS = "sluice_worker_errors_total"


def batch(*attempts: int) -> Batch:
    tasks = tuple(Task(Scenario.SSP126, 2030 + n, attempt) for n, attempt in enumerate(attempts))
    return Batch(ASSESSMENT, 0, 7, AssetTerms(1e9, 0.3), "token", tasks)


def inputs(count: int, version: str = "1") -> BatchInputs:
    years = range(2030, 2030 + count)
    tasks = {(Scenario.SSP126, year): TaskInputs(year, {}, {}) for year in years}
    return BatchInputs(version, tasks)


def in_turn(*answers: Any) -> Callable[[], Any]:
    """Give the answers one after another, the last of them for ever."""
    remaining = list(answers)
    return lambda: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def wait_until(holds: Callable[[], bool]) -> None:
    poll(holds, seconds=GIVE_UP_SECONDS, what="the condition holds", every=0.005)


class Workshop:
    """A crew of one thread over a stand-in database."""

    def __init__(self, document: dict[str, Any], database: StandInDatabase) -> None:
        document["worker"]["threads"] = 1
        self.live = Live(WorkerSettings.model_validate(document))
        self.database = database
        self.registry = CollectorRegistry()
        self.crashes = 0
        database.answers |= {
            "claim": None,
            "find claim": None,
            "read site": SiteInputs(None, {}),
            "read tasks": inputs(2),
            "complete": 0,
            "finish": [],
            "fail lost": [],
            "release": 1,
        }
        self.crew = Crew(database, self.live, WorkMetrics(self.registry), self._crash)

    def _crash(self) -> None:
        self.crashes += 1

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def called(self, name: str) -> int:
        return self.database.calls.count(name)


@pytest.fixture
def workshop(worker_document: dict[str, Any], database: StandInDatabase) -> Any:
    shop = Workshop(worker_document, database)
    yield shop
    shop.crew.shut_down()


def test_a_claimed_batch_is_stored_and_its_assessment_finished(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    workshop.crew.start()
    wait_until(lambda: workshop.called("finish") >= 2)
    assert workshop.count("sluice_tasks_done_total") == 2
    assert workshop.count("sluice_batch_seconds_count") == 1


def test_the_inputs_of_a_site_are_read_once(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), batch(1, 1), batch(1, 1), None)
    workshop.crew.start()
    wait_until(lambda: workshop.called("complete") == 3)
    assert workshop.called("read site") == 1


def test_a_site_is_read_anew_from_new_reference_data(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), batch(1, 1), batch(1, 1), None)
    workshop.database.answers["read tasks"] = in_turn(inputs(2), inputs(2, "2"))
    workshop.crew.start()
    wait_until(lambda: workshop.called("complete") == 3)
    assert workshop.called("read site") == 2


def test_a_task_that_raises_is_counted_and_the_others_are_stored(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assess(_model: SiteModel, task: TaskInputs, _terms: AssetTerms) -> tuple[()]:
        if task.year == 2031:
            raise ValueError("bad input")
        return ()

    monkeypatch.setattr(SiteModel, "assess", assess)
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_retried_total") == 1)
    assert workshop.count("sluice_tasks_done_total") == 1


def test_results_that_the_tables_refuse_fail_the_tasks(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    workshop.database.answers["complete"] = in_turn(psycopg.errors.CheckViolation("no"), 0)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_retried_total") == 2)
    assert workshop.count("sluice_tasks_done_total") == 0


def test_a_refused_fence_is_counted_and_work_goes_on(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), batch(1, 1), None)
    workshop.database.answers["complete"] = in_turn(FenceRefusedError("lost"), 0)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_done_total") == 2)
    assert workshop.count("sluice_tasks_fenced_total") == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DatabaseUnavailable("gone", STATE), "database_unavailable"),
        (psycopg.errors.UndefinedTable("no such table"), "database_error"),
    ],
)
def test_a_database_error_backs_off_and_work_goes_on(
    workshop: Workshop, error: Exception, kind: str
) -> None:
    workshop.database.answers["claim"] = in_turn(error, batch(1, 1), None)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_done_total") == 2)
    assert workshop.count("sluice_worker_errors_total", kind=kind) == 1
    assert workshop.crew.fault() is None


def test_an_outage_while_storing_is_outlasted_after_looking_for_the_commit(
    workshop: Workshop,
) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    workshop.database.answers["complete"] = in_turn(DatabaseUnavailable("gone", STATE), 0)
    workshop.database.answers["complete lookup"] = True
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_done_total") == 2)
    assert workshop.called("complete") == 1


@pytest.mark.parametrize("name", ["read tasks", "complete"])
@pytest.mark.parametrize(
    ("error", "times", "given_back"),
    [
        (DatabaseUnavailable("gone", STATE), INTERRUPTIONS_MAX, INTERRUPTIONS_MAX),
        (DatabaseUnavailable("gone", STATE), INTERRUPTIONS_MAX + 2, INTERRUPTIONS_MAX),
        (psycopg.errors.UndefinedColumn("no"), INTERRUPTIONS_MAX + 2, INTERRUPTIONS_MAX + 2),
    ],
    ids=["outages", "too many outages", "a schema that is not there"],
)
def test_an_error_of_the_infrastructure_uses_up_no_attempt_unless_it_comes_with_the_task(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: Exception,
    times: int,
    given_back: int,
) -> None:
    document = workshop.live.current.model_dump()
    document["worker"]["batch_deadline_seconds"] = 0.001
    workshop.live.replace(WorkerSettings.model_validate(document))
    monkeypatch.setattr(loop, "BACKOFF_MAX_SECONDS", 0.01)
    monkeypatch.setattr(loop, "BACKOFF_FIRST_SECONDS", 0.01)
    # The lookup of a commit whose fate is open fails as well.
    for call in (name, "complete lookup"):
        good = workshop.database.answers.get(call)
        workshop.database.answers[call] = lambda good=good: (
            error if workshop.called("claim") <= times else good
        )
    workshop.database.answers["claim"] = in_turn(*[batch(1)] * (times + 1), None)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_done_total") == 1)
    assert workshop.called("release") == given_back
    assert workshop.count("sluice_tasks_retried_total") == 0


def test_after_an_outage_leases_that_ran_out_are_left_to_their_holders(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SWEEP_SECONDS", 0.0)
    monkeypatch.setattr(loop, "RECOVERY_SECONDS", 2.0)
    workshop.crew.start()
    wait_until(lambda: workshop.called("fail lost") >= 2)
    workshop.database.answers["claim"] = in_turn(DatabaseUnavailable("gone", STATE), batch(1), None)
    wait_until(lambda: workshop.called("complete") == 1)
    assert "fail lost" not in workshop.database.calls[-3:]
    before = workshop.called("fail lost")
    wait_until(lambda: workshop.called("fail lost") > before)


def test_a_batch_is_given_back_when_the_assessment_before_it_could_not_be_ended(
    workshop: Workshop,
) -> None:
    other = replace(batch(1, 1), assessment_id=uuid4())
    workshop.database.answers["claim"] = in_turn(batch(1, 1), other, None)
    failed = in_turn(DatabaseUnavailable("gone", STATE), [])
    # The first end is the sweep's.
    workshop.database.answers["finish"] = lambda: failed() if workshop.called("claim") == 2 else []
    workshop.crew.start()
    wait_until(lambda: workshop.called("release") == 1)
    assert workshop.called("complete") == 1


def test_what_a_claim_without_an_answer_leased_is_given_back(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(DatabaseUnavailable("in doubt", STATE), None)
    workshop.database.answers["find claim"] = in_turn(batch(1, 1), None)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_released_total") == 1)
    wait_until(lambda: workshop.called("claim") >= 2)
    assert workshop.called("find claim") == 1


def test_a_claim_is_looked_up_behind_its_commit() -> None:
    executed: list[str] = []

    class Connection:
        def execute(self, query: str, _parameters: Any) -> "Connection":
            executed.append(query)
            return self

        def fetchall(self) -> list[Any]:
            return []

    connection: Any = Connection()
    assert find_claim(connection, "token") is None
    # In a statement of its own: a snapshot that is taken before the wait does not show the claim.
    assert executed == [AWAIT_CLAIM, FIND_CLAIM]
    assert AWAIT_CLAIM in CLAIM


def no_polls(workshop: Workshop) -> None:
    """Have the crew poll once a minute at most."""
    document = workshop.live.current.model_dump()
    document["worker"] |= {"poll_interval_seconds": 60.0, "poll_interval_max_seconds": 60.0}
    workshop.live.replace(WorkerSettings.model_validate(document))


def test_a_hint_has_an_idle_worker_claim_at_once(workshop: Workshop) -> None:
    no_polls(workshop)
    workshop.crew.start()
    wait_until(lambda: workshop.called("claim") == 1)
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    sender = HintSender(HintSettings(host="127.0.0.1", port=workshop.crew._hints.port))
    sender.start()
    sender.send()
    wait_until(lambda: workshop.called("complete") == 1)
    sender.close()


def test_a_thread_that_waits_is_not_taken_for_one_that_hangs(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "ATTENDANCE_SECONDS", 0.01)
    no_polls(workshop)
    workshop.crew.start()
    wait_until(lambda: workshop.called("claim") == 1)
    (worker,) = workshop.crew._loops
    shown = worker.last_turn_at
    wait_until(lambda: worker.last_turn_at > shown)
    assert workshop.called("claim") == 1
    assert workshop.crew.fault() is None


def test_tasks_to_be_tried_again_are_asked_for_when_their_pause_is_over(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[float] = []
    monkeypatch.setattr(workshop.crew._idle, "expect", expected.append)
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    workshop.database.answers["complete"] = in_turn(psycopg.errors.CheckViolation("no"), 0)
    workshop.crew.start()
    wait_until(lambda: expected == [workshop.live.current.worker.retry_delay_seconds])


def test_after_an_outage_the_end_of_the_recovery_is_not_slept_through(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[float] = []
    monkeypatch.setattr(workshop.crew._idle, "expect", expected.append)
    workshop.database.answers["claim"] = in_turn(DatabaseUnavailable("gone", STATE), None)
    workshop.crew.start()
    wait_until(lambda: expected == [loop.RECOVERY_SECONDS])


def test_a_bug_ends_the_process_and_is_never_silent(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = TypeError("a bug")
    workshop.crew.start()
    wait_until(lambda: workshop.crashes == 1)
    assert workshop.crew.crashed
    assert workshop.crew.fault() is not None


def test_a_batch_that_outlasts_the_grace_is_given_back(workshop: Workshop) -> None:
    release = threading.Event()
    workshop.database.answers["claim"] = in_turn(batch(1, 1), None)
    workshop.database.answers["complete"] = lambda: release.wait(GIVE_UP_SECONDS) and 0
    workshop.crew.start()
    wait_until(lambda: workshop.called("complete") == 1)
    workshop.crew.shut_down()
    release.set()
    assert workshop.called("release") == 1
    assert workshop.count("sluice_tasks_released_total") == 1


def back_off_for_long(workshop: Workshop) -> None:
    """Have the crew give a batch up at the first error, and then wait for a minute."""
    document = workshop.live.current.model_dump()
    document["worker"]["batch_deadline_seconds"] = 0.001
    workshop.live.replace(WorkerSettings.model_validate(document))
    workshop.crew._loops[0]._backoff_seconds = 60.0


GONE = DatabaseUnavailable("gone", STATE)


@pytest.mark.parametrize(
    "answers",
    [
        {"claim": in_turn(batch(1, 1), None), "read tasks": GONE},
        {"claim": GONE, "find claim": batch(1, 1)},
    ],
    ids=["a batch", "a claim without an answer"],
)
def test_a_worker_that_stops_while_it_waits_for_the_database_gives_back(
    workshop: Workshop, answers: dict[str, Any]
) -> None:
    back_off_for_long(workshop)
    workshop.database.answers |= answers
    workshop.crew.start()
    wait_until(lambda: workshop.count(ERRORS, kind="database_unavailable") == 1)
    workshop.crew.shut_down()
    assert workshop.count("sluice_tasks_released_total") == 1


def test_the_pool_is_closed_whatever_the_database_says_to_what_is_given_back(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[float] = []
    monkeypatch.setattr(workshop.database, "close", closed.append)
    back_off_for_long(workshop)
    workshop.database.answers |= {
        "claim": batch(1, 1),
        "read tasks": GONE,
        "release": psycopg.errors.UndefinedTable("no such table"),
    }
    workshop.crew.start()
    wait_until(lambda: workshop.count(ERRORS, kind="database_unavailable") == 1)
    workshop.crew.shut_down()
    assert len(closed) == 1


def test_what_a_bug_had_in_hand_is_not_given_back(workshop: Workshop) -> None:
    workshop.database.answers |= {"claim": batch(1, 1), "complete": TypeError("a bug")}
    workshop.crew.start()
    wait_until(lambda: workshop.crashes == 1)
    workshop.crew.shut_down()
    assert workshop.called("release") == 0


def test_a_stopping_crew_finishes_the_batch_in_hand(workshop: Workshop) -> None:
    release = threading.Event()
    workshop.database.answers["claim"] = batch(1, 1)
    workshop.database.answers["complete"] = lambda: release.wait(GIVE_UP_SECONDS) and 0
    workshop.crew.start()
    wait_until(lambda: workshop.called("complete") == 1)
    workshop.crew.stop_claiming()
    release.set()
    workshop.crew.shut_down()
    assert workshop.called("claim") == 1
    assert workshop.called("release") == 0
    assert workshop.count("sluice_tasks_done_total") == 2


def model() -> SiteModel:
    return SiteModel(SiteInputs(None, {}))


def test_the_site_cache_forgets_the_least_recently_used() -> None:
    cache = SiteModels()
    first = cache.get((0, None), model)
    for cell in range(1, CELLS_MAX):
        cache.get((cell, None), model)
    assert cache.get((0, None), model) is first
    cache.get((CELLS_MAX, None), model)
    assert cache.get((0, None), model) is first
    assert len(cache._models) == CELLS_MAX


def test_the_site_cache_reads_again_after_a_while() -> None:
    now = 0.0
    cache = SiteModels(clock=lambda: now)
    first = cache.get((0, None), model)
    now = AGE_MAX_SECONDS + 1
    assert cache.get((0, None), model) is not first


class CommitInDoubt:
    """A database whose commit reply was lost: it runs the lookup, on what the lookup reads."""

    def __init__(self, held: int, stored: int, failed: int) -> None:
        self.row = (held, stored, failed)

    def run(self, work: Any, *, lookup: Any, **_: Any) -> Any:
        del work
        return lookup(self)

    def execute(self, *_: Any) -> Any:
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return self.row


class Counted:
    """A runner over a database in doubt, and what it counts."""

    def __init__(self, document: dict[str, Any], found: Any) -> None:
        self._registry = CollectorRegistry()
        live = Live(WorkerSettings.model_validate(document))
        self._runner = BatchRunner(found, live, WorkMetrics(self._registry))

    def store(self, ours: Batch, done: int) -> None:
        """Store the first `done` tasks as results, the others as failures."""
        results = [TaskResults(task, ()) for task in ours.tasks[:done]]
        failures = [TaskFailure(task, "boom") for task in ours.tasks[done:]]
        self._runner._store(ours, results, failures, Deadline.after(5.0))

    def counts(self) -> list[float | None]:
        names = ("done", "failed", "retried")
        return [self._registry.get_sample_value(f"sluice_tasks_{name}_total") for name in names]


@pytest.mark.parametrize(("attempt", "failed"), [(1, 0), (3, 1)], ids=["queued again", "last"])
@pytest.mark.parametrize("done", [0, 1])
def test_a_commit_found_afterwards_is_counted_as_if_its_reply_had_come(
    worker_document: dict[str, Any], attempt: int, failed: int, done: int
) -> None:
    found = CommitInDoubt(held=0, stored=done, failed=1)
    runner = Counted(worker_document, found)
    runner.store(batch(*[1] * done, attempt), done)
    assert runner.counts() == [done, failed, 1 - failed]


@pytest.mark.parametrize("done", [0, 1])
def test_a_lease_lost_before_the_commit_is_never_taken_for_stored(
    worker_document: dict[str, Any], done: int
) -> None:
    runner = Counted(worker_document, CommitInDoubt(held=0, stored=0, failed=0))
    with pytest.raises(FenceRefusedError):
        runner.store(batch(1, 1), done)
    assert runner.counts() == [0, 0, 0]


class SweepInDoubt(StandInDatabase):
    """A database whose sweep failed one task, and lost the answer to its COMMIT."""

    lost = (ASSESSMENT, 0, "SSP126", 2030, "its lease ran out")
    stored = True

    def run(self, work: Any, *, name: str, **how: Any) -> Any:
        if name != "fail lost":
            return super().run(work, name=name, **how)
        work(self)
        return how["lookup"](self)

    def execute(self, *_: Any) -> Any:
        return self

    def fetchall(self) -> list[Any]:
        return [self.lost]

    def fetchone(self) -> tuple[bool]:
        return (self.stored,)


def test_tasks_that_a_sweep_has_failed_are_counted_though_its_answer_was_lost(
    worker_document: dict[str, Any],
) -> None:
    doubt = SweepInDoubt()
    workshop = Workshop(worker_document, doubt)
    workshop.crew.start()
    wait_until(lambda: workshop.count("sluice_tasks_failed_total") == 1)
    workshop.crew.shut_down()
    assert workshop.crashes == 0


def test_what_a_sweep_did_not_store_is_looked_for_again() -> None:
    doubt: Any = SweepInDoubt()
    doubt.stored = False
    assert find_lost(doubt, [doubt.lost]) is None
    # Nothing to store, nothing to repeat.
    assert find_lost(doubt, []) == []


def test_a_wrong_figure_does_not_end_a_batch_that_is_stored(workshop: Workshop) -> None:
    workshop.database.answers["claim"] = in_turn(batch(1, 1), batch(1, 1), None)
    workshop.database.answers["complete"] = in_turn(3, 0)
    workshop.crew.start()
    wait_until(lambda: workshop.called("finish") >= 2)
    assert workshop.crew.fault() is None
    assert workshop.count("sluice_batch_seconds_count") == 2
