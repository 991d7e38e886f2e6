"""A campaign is the same for the same seed, and its page says what was broken."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import MagicMock, Mock

import pytest

from loadtest.report import pages
from loadtest.run_directory import RunDirectory
from tests import command
from tests.chaos import workload
from tests.chaos.campaign import (
    CALM_SECONDS,
    Campaign,
    Event,
    Planned,
    Quiet,
    Record,
    Recovery,
    alone,
    drawn,
    recovered,
)
from tests.chaos.faults import FAULTS, Fault, NotDone
from tests.chaos.ground import Block, Ground
from tests.chaos.verdict import as_series, silent, uncut
from tests.faults.load import Load, Sample
from tests.faults.oracle import writes_gap
from tests.fix_stack import poll


def first(rounds: Iterator[list[Planned]], count: int) -> list[list[tuple[object, ...]]]:
    """Return what the first rounds will be, with the first of each fault's own numbers."""
    return [
        [(one.fault.name, one.after, one.lasts, one.random.random()) for one in planned]
        for planned in itertools.islice(rounds, count)
    ]


@pytest.mark.parametrize("rounds", [drawn, partial(alone, times=2)])
def test_the_same_seed_draws_the_same_rounds_and_another_one_others(
    rounds: Callable[[int, Sequence[Fault]], Iterator[list[Planned]]],
) -> None:
    assert first(rounds(7, FAULTS), 20) == first(rounds(7, FAULTS), 20)
    assert first(rounds(7, FAULTS), 20) != first(rounds(8, FAULTS), 20)


def test_every_fault_is_drawn_sooner_or_later() -> None:
    found = {one.fault.name for plan in itertools.islice(drawn(1, FAULTS), 200) for one in plan}
    assert found == {one.name for one in FAULTS}


def test_each_fault_is_done_alone_as_often_as_asked_for() -> None:
    names = [one.fault.name for plan in alone(1, FAULTS, 3) for one in plan]
    assert Counter(names) == {one.name: 3 for one in FAULTS}
    assert names[: len(FAULTS)] != [one.name for one in FAULTS]


def test_a_request_without_an_answer_is_excused_only_while_its_process_is_killed() -> None:
    killed = Event(1, "an api process is killed", 100.0, 101.0)
    other = Event(1, "PostgreSQL is killed", 100.0, 101.0)
    cut, late, answered = (
        Sample("status", started, 0.5, status)
        for started, status in ((100.2, 0), (110.0, 0), (100.2, 500))
    )
    assert uncut([cut, late, answered], [killed]) == [late, answered]
    assert uncut([cut], [other]) == [cut]
    assert uncut([cut], [replace(killed, not_done="its container was away")]) == [cut]


def request(started: float, seconds: float, status: int, kind: str = "status") -> Sample:
    """Return a request of the load."""
    return Sample(kind, started, seconds, status)


LATER = 100 + 2 * CALM_SECONDS


@pytest.mark.parametrize(
    ("samples", "until", "seconds"),
    [
        ([request(101, 0.1, 200)], LATER, 0),
        # Only health is asked, and it does not need the path.
        ([request(101, 0.1, 200, "health")], LATER, None),
        # It began before the end and says nothing of what is after it; the next one does.
        ([request(95, 9.9, 503)], LATER, None),
        ([request(95, 9.9, 503), request(101, 0.1, 200)], LATER, 0),
        ([request(102, 9.9, 503), request(112.5, 0.1, 200)], 120, 2),
        ([request(101, 0.1, 200), request(102, 9.9, 503)], 120, None),
        # One that began at 101 hangs: what may be known ends there.
        ([request(100.5, 0.1, 200)], 101, None),
    ],
)
def test_a_round_is_over_when_requests_that_began_after_it_succeed(
    samples: list[Sample], until: float, seconds: float | None
) -> None:
    assert recovered(samples, 100, until) == seconds


def test_a_client_of_the_workloads_that_never_succeeds_again_is_named(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    lines = [
        {"client": one, "outcome": "ok", "began": 9 if one == "bank-1" else 11}
        for one in workload.CLIENTS
    ]
    lines += [{"client": "bank-1", "outcome": "fail", "began": 12}]
    history.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert silent(history, 10) == ["bank-1"]
    assert silent(history, 8) == []


def test_writes_that_never_come_back_are_a_gap_to_the_end_of_the_load() -> None:
    load = Load(url="", ended=130.0)
    load.samples += [Sample("submit", 100 + one, 0.5, 202) for one in range(3)]
    assert writes_gap(load, 100) == pytest.approx(27.5)
    load.samples.append(Sample("submit", 129, 1.5, 202))
    assert writes_gap(load, 100) == pytest.approx(28)


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 60 & echo $! >{child}; wait"
    process = command.start("sh", "-c", script, own_group=True)
    with pytest.raises(subprocess.TimeoutExpired):
        command.finished(process, seconds=1)
    # Ended, and at most not yet taken note of by whoever inherited it.
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    poll(
        lambda: not state.exists() or state.read_text().split()[2] == "Z",
        seconds=10,
        what="what it started has ended",
    )


@contextmanager
def not_done(_ground: Ground, _random: Random) -> Iterator[None]:
    """Be a fault that another one is in the way of."""
    raise NotDone("no backend was met in a COMMIT")
    yield


@contextmanager
def done(_ground: Ground, _random: Random) -> Iterator[None]:
    """Be a fault that breaks nothing."""
    yield


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """Return a campaign whose server takes no connection, and which does not wait for it."""
    monkeypatch.setattr(Campaign, "_look", Mock())
    monkeypatch.setattr(Campaign, "_watch", Mock())
    monkeypatch.setattr("tests.chaos.campaign.REPLAY_SECONDS_MAX", 0.1)
    monkeypatch.setattr("tests.chaos.campaign.run_in", Mock(return_value=(2, "no response")))
    return Campaign(MagicMock(), Load(url=""), Mock(), 1)


def plan(*blocks: Block) -> list[Planned]:
    """Return a round of faults that begin at once."""
    return [Planned(Fault(f"{one}", one, (0, 0), 5), Random(), 0, 0) for one in blocks]  # noqa: S311


def test_a_server_that_does_not_come_back_ends_the_campaign_and_breaks_r(
    campaign: Campaign,
) -> None:
    campaign.run([plan(done), plan(done)], 1)
    (violation,) = campaign.record.violations["R"]
    assert "PostgreSQL takes no connection" in violation
    assert campaign.record.recoveries == []


def test_a_fault_that_could_not_be_done_counts_only_where_it_was_alone(
    campaign: Campaign,
) -> None:
    campaign.run([plan(done, not_done)], 1)
    assert [bool(one.not_done) for one in campaign.record.events] == [False, True]
    assert not any("met in a COMMIT" in one for one in campaign.record.violations["R"])
    campaign.run([plan(not_done)], 1)
    assert any("met in a COMMIT" in one for one in campaign.record.violations["R"])


def test_the_page_has_the_first_violation_and_the_faults(tmp_path: Path) -> None:
    began = time.monotonic()
    record = Record(7, began=began, ended=began + 5)
    record.events.append(Event(1, "PostgreSQL is killed", began + 1, began + 2))
    record.events.append(Event(1, "backends are ended", began + 1, began + 2, not_done="away"))
    record.recoveries.append(Recovery(1, 1.5, 10))
    record.quiet += [Quiet(12.5, {"api": 41}), Quiet(13.5, {"api": 47})]
    record.violations["W"] += ["list: lost: acknowledged and not there: list-1-7", "another"]
    load = Load(url="")
    load.samples += [Sample("status", began, 0.1, 200), Sample("submit", began + 1, 2.0, 503)]
    run = RunDirectory(tmp_path / "20261129T000000Z-chaos")
    run.path.mkdir()
    run.write("chaos", as_series(record, load))
    text = pages.write(run).read_text(encoding="utf-8")
    assert "Faults under load" in text
    assert "acknowledged and not there: list-1-7" in text
    assert "2 violations" in text
    assert "PostgreSQL is killed" in text
    assert text.count("backends are ended") == 1
    assert "backends are ended (not done)" in text
    assert "open files, api" in text
    assert [one["verdict"] for one in run.read("findings")] == ["NO", "yes", "yes", "yes", "yes"]
