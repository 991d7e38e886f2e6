"""Judges the histories of workload.py: what a path that loses, doubles or reorders would leave.

Each checker takes the operations of its workload and the tables as they are in the end, read
straight from PostgreSQL when nothing runs any more, and returns the violations as sentences. It
knows nothing of the pool, the pooler or the faults: only what was asked, answered and found.

What lists are judged by is Elle's list-append (Kingsbury and Alvaro, VLDB 2020): since each value
is appended once, a list in the end says in which order its appends took effect, and each read
between which two of them it came. The order of all transactions must follow from that without a
circle.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

Operation = dict[str, Any]
SHOWN = 5


def read_history(file: Path) -> list[Operation]:
    """Return the operations of a history; a last line without its end is of a killed process."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def of(workload: str, history: Iterable[Operation]) -> list[Operation]:
    """Return the operations of one workload."""
    return [one for one in history if one["workload"] == workload]


def _names(operations: Iterable[str]) -> str:
    found = sorted(operations)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _existence(history: Sequence[Operation], present: Counter[str]) -> Iterator[str]:
    """Compare what was asked to be written with what is there, by the names of operations."""
    by_outcome: dict[str, set[str]] = {"ok": set(), "fail": set(), "unknown": set()}
    for one in history:
        by_outcome[one["outcome"]].add(one["id"])
    found = set(present)
    if lost := by_outcome["ok"] - found:
        yield f"lost: acknowledged and not there: {_names(lost)}"
    if ghosts := by_outcome["fail"] & found:
        yield f"not undone: there although its caller was told that it failed: {_names(ghosts)}"
    if phantoms := found - set().union(*by_outcome.values()):
        yield f"phantom: there and asked for by nobody: {_names(phantoms)}"
    if doubled := [name for name, count in present.items() if count > 1]:
        yield f"doubled: there more than once: {_names(doubled)}"


# The bank --------------------------------------------------------------------------------------


def check_bank(
    history: Sequence[Operation],
    accounts: Mapping[str, Mapping[int, int]],
    transfers: Sequence[Mapping[str, Any]],
    initial: int,
) -> list[str]:
    """Judge the bank by its accounts (balances by bank and id) and its transfers, in the end."""
    asked = [one for one in history if one["kind"] == "transfer"]
    faults = list(_existence(asked, Counter(row["id"] for row in transfers)))
    for bank, final in accounts.items():
        total = initial * len(final)
        for one in (op for op in history if op["kind"] == "balances" and op["bank"] == bank):
            if one["outcome"] == "ok":
                faults += _wrong_balances(f"{one['id']} read", one["balances"], total)
        faults += _wrong_balances(f"{bank}: in the end", list(final.values()), total)
        expected = dict.fromkeys(final, initial)
        for row in transfers:
            if row["bank"] == bank:
                expected[row["source"]] -= row["amount"]
                expected[row["target"]] += row["amount"]
        if expected != dict(final):
            wrong = {
                one: (expected[one], final[one]) for one in final if expected[one] != final[one]
            }
            faults.append(f"lost update: {bank}: balances by transfers, and found: {wrong}")
    amounts = {row["id"]: row["amount"] for row in transfers}
    answered = ((one, amounts.get(one["id"])) for one in asked if one["outcome"] == "ok")
    faults += [
        f"wrong answer: {one['id']} was told paid={one['paid']}, and {amount} were"
        for one, amount in answered
        if amount is not None and one["paid"] != (amount > 0)
    ]
    return faults


def _wrong_balances(what: str, balances: Sequence[int], total: int) -> Iterator[str]:
    if sum(balances) != total:
        yield f"{what}: a sum of {sum(balances)}, not {total}: {balances}"
    if min(balances) < 0:
        yield f"{what}: an overdrawn account: {balances}"


# The counters ----------------------------------------------------------------------------------


def check_counters(
    history: Sequence[Operation],
    counters: Mapping[int, int],
    increments: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Judge the counters by their values and their increments in the end."""
    faults = list(_existence(history, Counter(row["id"] for row in increments)))
    stored = {row["id"]: row["value"] for row in increments}
    for one in history:
        if one["outcome"] == "ok" and one["value"] != stored.get(one["id"], one["value"]):
            faults.append(
                f"wrong answer: {one['id']} was told {one['value']}, stored is {stored[one['id']]}"
            )
    for counter, value in counters.items():
        values = sorted(row["value"] for row in increments if row["counter"] == counter)
        if values != list(range(1, value + 1)):
            faults.append(f"counter {counter} is {value} after {len(values)} increments")
        done = [one for one in history if one["outcome"] == "ok" and one["counter"] == counter]
        faults += _turned_back(done)
    return faults


def _turned_back(done: Sequence[Operation]) -> Iterator[str]:
    """Yield the increments that began after another had ended and came before it all the same."""
    ended = sorted(done, key=lambda one: one["ended"])
    highest = list(accumulate((one["value"] for one in ended), max))
    times = [one["ended"] for one in ended]
    for one in done:
        before = bisect_left(times, one["began"])
        if before and highest[before - 1] > one["value"]:
            yield f"turned back: {one['id']} got {one['value']} after {highest[before - 1]}"


# The lists -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Read:
    """What one transaction saw of one list before anything that it appended to it itself."""

    transaction: Operation
    key: int
    items: list[int]


def check_lists(history: Sequence[Operation], lists: Mapping[int, Sequence[int]]) -> list[str]:
    """Judge the transactions by the lists, by key, in the end."""
    writers = {value: one for one in history for kind, _, value in one["steps"] if kind == "append"}
    named = Counter(
        writers[value]["id"] if value in writers else f"value {value}"
        for items in lists.values()
        for value in items
    )
    appending = [one for one in history if any(kind == "append" for kind, _, _ in one["steps"])]
    faults = list(_existence(appending, Counter(dict.fromkeys(named, 1))))
    for key, items in lists.items():
        faults += [
            f"doubled: value {value} is {count} times in list {key}"
            for value, count in Counter(items).items()
            if count > 1
        ]
    answered = [one for one in history if one["outcome"] == "ok"]
    reads = [read for one in answered for read in _reads(one)]
    sound = []
    for read in reads:
        wrong = list(_wrong_read(read, lists.get(read.key, ()), writers))
        faults += wrong
        if not wrong:
            sound.append(read)
    for one in answered:
        faults += _own_missed(one)
    faults += _partly(history, lists)
    faults += _stale(history, reads, lists)
    return faults + list(_circle(sound, lists, writers))


def _reads(transaction: Operation) -> Iterator[_Read]:
    own = {value for kind, _, value in transaction["steps"] if kind == "append"}
    for kind, key, items in transaction["steps"]:
        if kind == "read" and items is not None:
            yield _Read(transaction, key, [item for item in items if item not in own])


def _own_missed(transaction: Operation) -> Iterator[str]:
    """Yield reads that do not end with what the transaction itself had appended before."""
    own: dict[int, list[int]] = defaultdict(list)
    for kind, key, value in transaction["steps"]:
        if kind == "append":
            own[key].append(value)
        elif value is not None and own[key] and value[-len(own[key]) :] != own[key]:
            name = transaction["id"]
            yield f"own append missed: {name} read {value} in list {key} after it added {own[key]}"


def _wrong_read(
    read: _Read, final: Sequence[int], writers: Mapping[int, Operation]
) -> Iterator[str]:
    name = read.transaction["id"]
    for item in read.items:
        if item not in writers:
            yield f"phantom: {name} read {item} in list {read.key}, which nobody appended"
        elif writers[item]["outcome"] == "fail":
            failed = writers[item]["id"]
            yield f"dirty read: {name} read {item} in list {read.key}, of {failed}, which failed"
    if read.items != list(final[: len(read.items)]):
        yield f"order: {name} read {read.items} in list {read.key}, in the end it is {list(final)}"
    if read.items:
        later = [
            value
            for kind, key, value in writers.get(read.items[-1], {"steps": []})["steps"]
            if kind == "append" and key == read.key
        ]
        if later and later[-1] != read.items[-1]:
            seen = read.items[-1]
            missed = later[-1]
            yield f"half: {name} read {seen} in list {read.key} without {missed}, its companion"


def _partly(history: Sequence[Operation], lists: Mapping[int, Sequence[int]]) -> Iterator[str]:
    """Yield transactions of which some appends are there and others are not."""
    for one in history:
        values = [(key, value) for kind, key, value in one["steps"] if kind == "append"]
        there = [value in lists.get(key, ()) for key, value in values]
        if any(there) and not all(there):
            yield f"half: only some appends of {one['id']} are there"


def _stale(
    history: Sequence[Operation], reads: Sequence[_Read], lists: Mapping[int, Sequence[int]]
) -> Iterator[str]:
    """Yield reads without an append that was acknowledged before they began."""
    acknowledged: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for one in history:
        for kind, key, value in one["steps"]:
            if kind == "append" and one["outcome"] == "ok" and value in lists.get(key, ()):
                acknowledged[key].append((one["ended"], lists[key].index(value) + 1))
    for ends in acknowledged.values():
        ends.sort()
    longest = {
        key: list(accumulate((n for _, n in ends), max)) for key, ends in acknowledged.items()
    }
    for read in reads:
        ends = acknowledged[read.key]
        before = bisect_left(ends, (read.transaction["began"], 0))
        if before and len(read.items) < longest[read.key][before - 1]:
            yield (
                f"stale: {read.transaction['id']} read {len(read.items)} items of list {read.key}, "
                f"{longest[read.key][before - 1]} were acknowledged before it began"
            )


def _circle(
    reads: Sequence[_Read], lists: Mapping[int, Sequence[int]], writers: Mapping[int, Operation]
) -> Iterator[str]:
    """Yield one circle in the order of the transactions, where there is one."""
    before: dict[str, set[str]] = defaultdict(set)

    def order(first: str, then: str) -> None:
        if first != then:
            before[then].add(first)

    for items in lists.values():
        known = [writers[item]["id"] for item in items if item in writers]
        for first, then in pairwise(known):
            order(first, then)
    for read in reads:
        name, seen = read.transaction["id"], len(read.items)
        final = lists.get(read.key, ())
        if seen:
            order(writers[read.items[-1]]["id"], name)
        following = next((writers[item]["id"] for item in final[seen:] if item in writers), None)
        if following:
            order(name, following)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        yield "not serializable: each comes before the next: " + " < ".join(error.args[1])
