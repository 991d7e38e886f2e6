"""Which try follows which failure, and what the caller finally sees."""

from typing import Any

import psycopg
import psycopg.errors
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from app.pool import (
    RULES,
    CommitOutcomeUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    FailureClass,
    PoolSaturated,
    TransactionMisuse,
    runner,
)
from app.pool.runner import CONFIRM
from tests.unit.pool.fakes import STATE, Bench, FakeConnection, Script, error

LOST = "server closed the connection unexpectedly"


def refused(cause: psycopg.OperationalError, kind: type[DatabaseUnavailable]) -> Exception:
    made = kind("refused", STATE)
    made.__cause__ = cause
    return made


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "57P01", "57P02", "08006"])
def test_what_is_safe_is_repeated(sqlstate: str) -> None:
    bench, work = Bench(), Script(error(sqlstate), error(sqlstate), "done")
    assert bench.run(work) == "done"
    assert [connection.log[-1] for connection in bench.lender.lent] == [
        "rollback",
        "rollback",
        "commit",
    ]


@pytest.mark.parametrize("sqlstate", ["57014", "25P03", "25P04", "26000", "42P05"])
def test_what_may_be_repeated_once_is_repeated_once(sqlstate: str) -> None:
    bench, work = Bench(retry_attempts_max=5), Script(*[error(sqlstate)] * 5)
    with pytest.raises(DatabaseUnavailable):
        bench.run(work)
    assert work.calls == 2


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "58030"])
def test_a_server_short_of_resources_is_not_asked_again(sqlstate: str) -> None:
    work = Script(error(sqlstate))
    with pytest.raises(DatabaseUnavailable):
        Bench().run(work)
    assert work.calls == 1


@pytest.mark.parametrize("sqlstate", ["22012", "23503", "23505", "42601"])
def test_an_error_in_the_data_reaches_the_caller_unchanged(sqlstate: str) -> None:
    original = error(sqlstate)
    bench, work = Bench(), Script(original)
    with pytest.raises(psycopg.Error) as caught:
        bench.run(work)
    assert caught.value is original
    assert bench.lender.lent[0].log == ["begin", "rollback"]


@pytest.mark.parametrize("mine", [KeyError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_of_the_work_passes_unchanged_after_a_rollback(mine: BaseException) -> None:
    bench, work = Bench(), Script(mine)
    with pytest.raises(type(mine)) as caught:
        bench.run(work)
    assert caught.value is mine
    assert bench.lender.lent[0].log == ["begin", "rollback"]
    assert bench.lender.returned == [None]


@pytest.mark.parametrize("sqlstate", ["57P01", "25006", "26000", "08006"])
def test_a_connection_that_cannot_serve_is_discarded(sqlstate: str) -> None:
    bench = Bench()
    bench.run(Script(error(sqlstate), "done"))
    assert bench.lender.returned[0] is not None
    assert bench.lender.returned[1] is None


@pytest.mark.parametrize("read_only", [True, False])
def test_a_stale_plan_is_repeated_unprepared(read_only: bool) -> None:
    thresholds: list[int | None] = []

    def work(connection: Any) -> str:
        thresholds.append(connection.prepare_threshold)
        if len(thresholds) == 1:
            raise error("0A000", "cached plan must not change result type")
        return "done"

    bench = Bench()
    assert bench.run(work, read_only=read_only) == "done"
    assert thresholds == [5, None]
    assert [connection.prepare_threshold for connection in bench.lender.lent] == [5, 5]
    assert bench.lender.returned == ["stale_plan", None]


def test_a_read_runs_without_a_transaction() -> None:
    bench = Bench()
    assert bench.run(Script("row"), read_only=True) == "row"
    assert bench.lender.lent[0].log == []


def test_tries_end_at_the_most_allowed() -> None:
    bench, work = Bench(retry_attempts_max=2), Script(*[error("40001")] * 9)
    with pytest.raises(DatabaseUnavailable, match="OperationalError 40001"):
        bench.run(work)
    assert work.calls == 2
    assert bench.count("retries", "conflict") == 1


def test_tries_end_with_the_retry_budget() -> None:
    bench = Bench(retry_attempts_max=99, retry_budget_seconds=0.0)
    work = Script(*[error("40001")] * 99)
    with pytest.raises(DatabaseUnavailable):
        bench.run(work)
    assert work.calls == 1


def test_the_wait_between_tries_doubles_and_is_spread_by_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(runner, "sleep", waits.append)
    bench, work = Bench(retry_attempts_max=4), Script(*[error("40001")] * 3, "done")
    assert bench.run(work) == "done"
    first = RULES[FailureClass.CONFLICT].backoff_seconds
    for seconds, mean in zip(waits, (first, 2 * first, 4 * first), strict=True):
        assert 0.5 * mean <= seconds <= 1.5 * mean


def test_a_full_queue_is_not_joined_again() -> None:
    bench = Bench(refused(TooManyRequests("x"), PoolSaturated))
    with pytest.raises(PoolSaturated):
        bench.run(Script("done"))


def test_a_wait_that_timed_out_is_repeated() -> None:
    bench = Bench(refused(PoolTimeout("x"), PoolSaturated))
    assert bench.run(Script("done")) == "done"
    assert bench.count("retries", "pool_timeout") == 1


def test_waits_that_timed_out_are_limited_by_the_time_and_not_by_the_number_of_tries() -> None:
    waits = [refused(PoolTimeout("x"), PoolSaturated) for _ in range(3)]
    bench, work = Bench(*waits, retry_attempts_max=2), Script(error("40001"), "done")
    assert bench.run(work) == "done"
    assert bench.count("retries", "pool_timeout") == 3


def test_waits_that_timed_out_end_with_the_retry_budget() -> None:
    waits = [refused(PoolTimeout("x"), PoolSaturated) for _ in range(3)]
    with pytest.raises(PoolSaturated):
        Bench(*waits, retry_budget_seconds=0.0).run(Script("done"))


def test_a_closed_pool_is_not_asked_again() -> None:
    bench = Bench(refused(PoolClosed("x"), DatabaseUnavailable))
    with pytest.raises(DatabaseUnavailable):
        bench.run(Script("done"))


def lost_in_commit() -> FakeConnection:
    return FakeConnection(commit_error=error(None, LOST))


def test_a_commit_without_an_answer_is_looked_up_and_found() -> None:
    bench, work = Bench(lost_in_commit()), Script("first")
    assert bench.run(work, lookup=Script("stored")) == "stored"
    assert work.calls == 1
    assert bench.count("commits_in_doubt", "found") == 1


def test_a_commit_that_no_standby_has_is_in_doubt_until_a_lookup_is_on_one() -> None:
    said = "canceling wait for synchronous replication due to user request"
    first, again, last = (FakeConnection(unreplicated=text) for text in (said, said, ""))
    bench, work = Bench(first, again, last), Script("first")
    assert bench.run(work, lookup=Script("stored", "stored")) == "stored"
    assert work.calls == 1
    assert [one.log for one in (again, last)] == [["begin", CONFIRM, "commit"]] * 2
    assert bench.lender.returned == ["lost", "lost", None]
    assert bench.count("commits_in_doubt", "found") == 1


def test_a_commit_that_is_on_no_standby_to_the_end_is_not_acknowledged() -> None:
    said = "canceling wait for synchronous replication due to user request"
    bench = Bench(*(FakeConnection(unreplicated=said) for _ in range(9)))
    with pytest.raises(CommitOutcomeUnknown, match="synchronous replication"):
        bench.run(Script("first"), lookup=Script(*["stored"] * 9))


def test_a_commit_that_is_looked_up_and_absent_is_repeated() -> None:
    bench, work = Bench(lost_in_commit()), Script("first", "second")
    assert bench.run(work, lookup=Script(None)) == "second"
    assert bench.count("commits_in_doubt", "repeated") == 1


def test_a_commit_that_is_not_to_be_seen_yet_is_found_by_a_later_lookup() -> None:
    bench, work = Bench(lost_in_commit()), Script("first", error("55P03"))
    assert bench.run(work, lookup=Script(None, "stored")) == "stored"
    assert work.calls == 2
    assert bench.count("commits_in_doubt", "found") == 1


@pytest.mark.parametrize("after", [["40001"], []], ids=["repeated in vain", "no try left"])
def test_a_commit_that_is_never_to_be_seen_may_still_succeed(after: list[str]) -> None:
    bench = Bench(lost_in_commit(), retry_attempts_max=1 + len(after))
    work = Script("first", *map(error, after))
    with pytest.raises(CommitOutcomeUnknown):
        bench.run(work, lookup=Script(None, None))
    assert bench.count("commits_in_doubt", "unknown") == 1


def test_an_idempotent_commit_is_repeated_without_asking() -> None:
    bench, work = Bench(lost_in_commit()), Script("first", "second")
    assert bench.run(work, idempotent=True) == "second"
    assert bench.count("commits_in_doubt", "repeated") == 1


def test_a_commit_without_an_answer_is_never_repeated_blindly() -> None:
    bench, work = Bench(lost_in_commit()), Script("first")
    with pytest.raises(CommitOutcomeUnknown):
        bench.run(work)
    assert work.calls == 1
    assert bench.count("commits_in_doubt", "unknown") == 1


def test_the_last_try_in_doubt_is_still_looked_up() -> None:
    bench = Bench(lost_in_commit(), retry_attempts_max=1)
    assert bench.run(Script("first"), lookup=Script("stored")) == "stored"


def test_a_lookup_that_fails_leaves_the_outcome_unknown() -> None:
    bench = Bench(lost_in_commit(), retry_attempts_max=1)
    with pytest.raises(CommitOutcomeUnknown):
        bench.run(Script("first"), lookup=Script(error("57P01")))


def test_a_later_failure_does_not_hide_an_open_commit() -> None:
    bench = Bench(lost_in_commit(), retry_attempts_max=2)
    with pytest.raises(CommitOutcomeUnknown):
        bench.run(Script("first", error("40001")), idempotent=True)


@pytest.mark.parametrize("sqlstate", ["40001", "23503"])
def test_a_server_that_refuses_a_commit_leaves_no_doubt(sqlstate: str) -> None:
    bench = Bench(FakeConnection(commit_error=error(sqlstate)), retry_attempts_max=1)
    with pytest.raises((DatabaseUnavailable, psycopg.Error)) as caught:
        bench.run(Script("first"))
    assert not isinstance(caught.value, CommitOutcomeUnknown)


def test_a_connection_lost_before_commit_was_sent_leaves_no_doubt() -> None:
    bench = Bench(FakeConnection(silent_loss=True))
    assert bench.run(Script("first", "second")) == "second"
    assert bench.count("retries", "lost") == 1


def test_a_taken_key_is_answered_with_the_stored_result() -> None:
    taken = psycopg.errors.UniqueViolation("taken")
    assert Bench().run(Script(taken), lookup=Script("stored")) == "stored"


def test_a_taken_key_that_is_not_ours_reaches_the_caller() -> None:
    taken = psycopg.errors.UniqueViolation("taken")
    with pytest.raises(psycopg.errors.UniqueViolation):
        Bench().run(Script(taken), lookup=Script(None))


def test_work_cut_at_the_deadline_is_told_so() -> None:
    bench = Bench()
    bench.lender.cut = True
    with pytest.raises(DeadlineExceeded):
        bench.run(Script(error(None, LOST)))


def test_a_commit_cut_at_the_deadline_is_unknown() -> None:
    bench = Bench(lost_in_commit())
    bench.lender.cut = True
    with pytest.raises(CommitOutcomeUnknown):
        bench.run(Script("first"), lookup=Script("stored"))


@pytest.mark.parametrize(
    "left", [TransactionStatus.IDLE, TransactionStatus.INERROR, TransactionStatus.ACTIVE]
)
def test_work_that_ends_or_spoils_the_transaction_is_refused(left: TransactionStatus) -> None:
    def work(connection: Any) -> None:
        connection.status = left

    bench = Bench()
    with pytest.raises(TransactionMisuse):
        bench.run(work)
    assert "commit" not in bench.lender.lent[0].log


def test_a_silent_rollback_is_refused() -> None:
    with pytest.raises(TransactionMisuse, match=r"psycopg\.Rollback"):
        Bench().run(Script(psycopg.Rollback()))


def test_a_read_that_leaves_a_transaction_open_is_refused() -> None:
    def work(connection: Any) -> None:
        connection.status = TransactionStatus.INTRANS

    with pytest.raises(TransactionMisuse, match="read-only work left its connection INTRANS"):
        Bench().run(work, read_only=True)


def test_a_transaction_is_named_after_what_it_is_done_for() -> None:
    bench = Bench()
    bench.origin = "x" * 100
    assert bench.run(Script(1)) == 1
    (connection,) = bench.lender.lent
    # As much of it as PostgreSQL keeps.
    assert connection.log == ["begin", f"work/{'x' * 58}", "commit"]


def test_a_read_and_a_transaction_for_nothing_in_particular_have_no_name() -> None:
    bench = Bench()
    bench.run(Script(1))
    bench.origin = "x"
    bench.run(Script(1), read_only=True)
    assert [connection.log for connection in bench.lender.lent] == [["begin", "commit"], []]
