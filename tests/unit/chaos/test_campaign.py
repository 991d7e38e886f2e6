"""A campaign is the same for the same seed, and its page says what was broken."""

from __future__ import annotations

import time
from pathlib import Path

from loadtest.report import pages
from loadtest.run_directory import RunDirectory
from tests.chaos.campaign import Event, Record, Recovery, as_series, planned, uncut
from tests.chaos.faults import FAULTS
from tests.faults.load import Load, Sample


def drawn(seed: int, number: int) -> list[tuple[str, float, float, float]]:
    """Return what a round is planned to be, the first of each fault's own numbers with it."""
    return [
        (one.fault.name, one.after, one.lasts, one.random.random()) for one in planned(seed, number)
    ]


def test_the_same_seed_draws_the_same_rounds_and_another_one_others() -> None:
    assert [drawn(7, number) for number in range(20)] == [drawn(7, number) for number in range(20)]
    assert [drawn(7, number) for number in range(20)] != [drawn(8, number) for number in range(20)]


def test_every_fault_is_drawn_sooner_or_later() -> None:
    found = {one.fault.name for number in range(200) for one in planned(1, number)}
    assert found == {one.name for one in FAULTS}


def test_a_request_without_an_answer_is_excused_only_while_its_process_is_killed() -> None:
    killed = Event(1, "an api process is killed", 100.0, 101.0)
    other = Event(1, "PostgreSQL is killed", 100.0, 101.0)
    cut, late, answered = (
        Sample("status", started, 0.5, status)
        for started, status in ((100.2, 0), (110.0, 0), (100.2, 500))
    )
    assert uncut([cut, late, answered], [killed]) == [late, answered]
    assert uncut([cut], [other]) == [cut]


def test_the_page_has_the_first_violation_and_the_faults(tmp_path: Path) -> None:
    began = time.monotonic()
    record = Record(7, began=began, ended=began + 5)
    record.events.append(Event(1, "PostgreSQL is killed", began + 1, began + 2))
    record.recoveries.append(Recovery(1, 1.5, 10))
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
    assert [one["verdict"] for one in run.read("findings")] == ["NO", "yes", "yes", "yes", "yes"]
