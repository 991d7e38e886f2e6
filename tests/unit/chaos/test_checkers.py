"""The checkers of histories find each violation that is put into a history, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.checkers import Operation, check_bank, check_counters, check_lists

INITIAL = 100
SUM = {"bank": {1: 90, 2: 110}}
PAID = {"id": "t1", "bank": "bank", "source": 1, "target": 2, "amount": 10}


def operation(name: str, outcome: str = "ok", at: float = 0, **fields: Any) -> Operation:
    """Return an operation that lasts a second from `at`."""
    return {"id": name, "outcome": outcome, "began": at, "ended": at + 1} | fields


def transfer(name: str, outcome: str = "ok", *, paid: bool = True) -> Operation:
    """Return a transfer of the bank."""
    return operation(name, outcome, kind="transfer", bank="bank", paid=paid)


def balances(*found: int) -> Operation:
    """Return a look at the balances."""
    return operation("look", kind="balances", bank="bank", balances=list(found))


def append(name: str, *values: int, outcome: str = "ok", at: float = 0, key: int = 1) -> Operation:
    """Return a transaction that appends to one list."""
    return operation(name, outcome, at, steps=[["append", key, value] for value in values])


def read(name: str, *items: int, at: float = 0, key: int = 1) -> Operation:
    """Return a transaction that reads one list."""
    return operation(name, at=at, steps=[["read", key, list(items)]])


def increment(name: str, value: int, outcome: str = "ok", at: float = 0) -> Operation:
    """Return an increment of a counter."""
    return operation(name, outcome, at, counter=1, value=value)


def stored(*names: str) -> list[dict[str, Any]]:
    """Return the increments that are there, with values from 1."""
    return [{"id": name, "counter": 1, "value": n} for n, name in enumerate(names, 1)]


def test_a_bank_that_keeps_its_sum_is_right() -> None:
    history = [transfer("t1"), transfer("t2", "fail"), balances(90, 110), balances(100, 100)]
    assert check_bank(history, SUM, [PAID], INITIAL) == []


def test_a_transfer_whose_outcome_is_unknown_may_be_there_or_not() -> None:
    assert check_bank([transfer("t1", "unknown")], SUM, [PAID], INITIAL) == []
    assert check_bank([transfer("t1", "unknown")], {"bank": {1: 100, 2: 100}}, [], INITIAL) == []


@pytest.mark.parametrize(
    ("history", "accounts", "transfers", "named"),
    [
        ([transfer("t1")], {1: 100, 2: 100}, [], "lost: acknowledged and not there: t1"),
        ([transfer("t1", "fail")], {1: 90, 2: 110}, [PAID], "not undone"),
        ([], {1: 90, 2: 110}, [PAID], "phantom"),
        ([transfer("t1")], {1: 90, 2: 110}, [PAID, PAID], "doubled"),
        ([transfer("t1")], {1: 100, 2: 100}, [PAID], "lost update"),
        ([transfer("t1")], {1: 90, 2: 111}, [PAID], "bank: in the end: a sum of 201"),
        ([transfer("t1", paid=False)], {1: 90, 2: 110}, [PAID], "wrong answer"),
        ([transfer("t1"), balances(90, 100)], {1: 90, 2: 110}, [PAID], "look read: a sum of 190"),
        ([transfer("t1"), balances(-10, 210)], {1: 90, 2: 110}, [PAID], "look read: an overdrawn"),
    ],
)
def test_what_is_wrong_in_a_bank_is_named(
    history: list[Operation],
    accounts: dict[int, int],
    transfers: list[dict[str, Any]],
    named: str,
) -> None:
    found = check_bank(history, {"bank": accounts}, transfers, INITIAL)
    assert any(one.startswith(named) for one in found), found


def test_counters_whose_values_are_in_order_are_right() -> None:
    history = [increment("a", 1), increment("b", 2, at=2), increment("c", 3, "unknown", at=2)]
    assert check_counters(history, {1: 3}, stored("a", "b", "c")) == []
    assert check_counters(history, {1: 2}, stored("a", "b")) == []


@pytest.mark.parametrize(
    ("history", "counter", "increments", "named"),
    [
        ([increment("a", 1)], 0, stored(), "lost"),
        ([increment("a", 1)], 2, stored("a", "a-again"), "phantom"),
        ([increment("a", 2)], 1, stored("a"), "wrong answer"),
        ([increment("a", 1), increment("b", 2)], 1, stored("a", "b"), "counter 1 is 1 after 2"),
        ([increment("b", 2), increment("a", 1, at=2)], 2, stored("a", "b"), "turned back: a"),
    ],
)
def test_what_is_wrong_in_a_counter_is_named(
    history: list[Operation], counter: int, increments: list[dict[str, Any]], named: str
) -> None:
    found = check_counters(history, {1: counter}, increments)
    assert any(one.startswith(named) for one in found), found


def test_lists_whose_reads_are_beginnings_of_the_end_are_right() -> None:
    history = [
        append("a", 1),
        append("b", 2, 3, at=2),
        append("c", 4, outcome="fail", at=4),
        append("d", 5, outcome="unknown", at=4),
        read("early", at=0),
        read("middle", 1, at=2),
        read("late", 1, 2, 3, at=6),
    ]
    assert check_lists(history, {1: [1, 2, 3]}) == []
    assert check_lists(history, {1: [1, 2, 3, 5]}) == []


def test_a_transaction_sees_its_own_append_behind_what_was_there() -> None:
    own = operation("own", at=2, steps=[["append", 1, 2], ["read", 1, [1, 2]]])
    assert check_lists([append("a", 1), own], {1: [1, 2]}) == []


@pytest.mark.parametrize(
    ("history", "items", "named"),
    [
        ([append("a", 1)], [], "lost: acknowledged and not there: a"),
        ([append("a", 1)], [1, 1], "doubled: value 1"),
        ([append("a", 1)], [1, 9], "phantom: there and asked for by nobody: value 9"),
        ([append("a", 1, outcome="fail")], [1], "not undone"),
        ([append("a", 1, 2)], [1], "half: only some appends of a"),
        (
            [
                append("a", 1),
                operation("own", at=2, steps=[["append", 1, 2], ["read", 1, [1]]]),
            ],
            [1, 2],
            "own append missed: own read [1]",
        ),
        ([append("a", 1, outcome="fail"), read("r", 1)], [], "dirty read: r"),
        ([read("r", 7)], [], "phantom: r read 7"),
        ([append("a", 1, 2), read("r", 1)], [1, 2], "half: r read 1"),
        ([append("a", 1), append("b", 2), read("r", 2)], [1, 2], "order: r"),
        ([append("a", 1), append("b", 2), read("r", 2, 1)], [1, 2], "order: r"),
        ([append("a", 1), read("r", at=2)], [1], "stale: r read 0 items"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(
    history: list[Operation], items: list[int], named: str
) -> None:
    found = check_lists(history, {1: items})
    assert any(one.startswith(named) for one in found), found


def test_two_transactions_that_each_miss_what_the_other_wrote_are_no_order() -> None:
    """Write skew: each read is right by itself."""
    first = operation("first", steps=[["read", 1, []], ["append", 2, 20]])
    second = operation("second", steps=[["read", 2, []], ["append", 1, 10]])
    (found,) = check_lists([first, second], {1: [10], 2: [20]})
    assert found.startswith("not serializable")
    assert "first" in found
    assert "second" in found


def test_half_of_a_transaction_seen_in_two_lists_is_no_order() -> None:
    writer = operation("writer", steps=[["append", 1, 10], ["append", 2, 20]])
    reader = operation("reader", steps=[["read", 1, [10]], ["read", 2, []]])
    (found,) = check_lists([writer, reader], {1: [10], 2: [20]})
    assert found.startswith("not serializable")
