"""Reload takes over what is live, all or none; state shows the running settings."""

import logging
import os
import socket
from collections.abc import Iterator

import pytest

from app.control.process import Process, ReloadRefusedError
from app.metrics import LastMinute
from app.settings import Live, WorkerSettings
from tests.unit.control.conftest import SettingsFile, StandInPool
from tests.unit.service.conftest import WORKER

Worker = Process[WorkerSettings]


@pytest.fixture(autouse=True)
def _level_is_put_back() -> Iterator[None]:
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


def test_state_is_the_running_settings_and_the_pool(process: Worker) -> None:
    state = process.state()
    assert state["settings"] == WORKER
    assert state["pool"]["max_size"] == 16
    assert (state["service"], state["pid"]) == ("worker", os.getpid())
    assert state["instance"] == socket.gethostname()
    assert state["started_at"].endswith("+00:00")
    assert (state["needs_reload"], state["needs_restart"], state["file_fault"]) == ([], [], "")
    assert state["last_minute"] is None


def test_state_has_the_last_minute_of_a_process_that_answers_requests(
    live: Live[WorkerSettings], file: SettingsFile, pool: StandInPool
) -> None:
    minute = LastMinute()
    minute.observe(503, 0.0009)
    state = Process(live, file.path, pool, last_minute=minute).state()
    assert state["last_minute"] == {"errors": 1, "buckets": [[0.001, 1]]}


def test_state_names_what_the_file_would_change(process: Worker, file: SettingsFile) -> None:
    file.write(pool__max_size=9, worker__threads=2, database__port=6433)
    state = process.state()
    assert state["needs_reload"] == ["pool.max_size"]
    assert state["needs_restart"] == ["database.port", "worker.threads"]
    assert state["settings"] == WORKER


def test_reload_takes_the_live_fields_over(
    process: Worker, file: SettingsFile, pool: StandInPool, live: Live[WorkerSettings]
) -> None:
    file.write(
        pool__min_size=3, pool__max_size=9, log__level="ERROR", worker__batch_tasks=7, http__port=99
    )
    process.reload()
    assert pool.resized == [(3, 9)]
    assert live.current.worker.batch_tasks == 7
    assert live.current.http.port == WORKER["http"]["port"]
    assert logging.getLogger().level == logging.ERROR
    state = process.state()
    assert (state["needs_reload"], state["needs_restart"]) == ([], ["http.port"])
    assert state["settings"]["pool"]["max_size"] == state["pool"]["max_size"] == 9


def test_reload_leaves_a_pool_of_the_same_size_alone(
    process: Worker, file: SettingsFile, pool: StandInPool
) -> None:
    file.write(worker__batch_tasks=7)
    process.reload()
    assert pool.resized == []


def test_a_broken_file_changes_nothing(
    process: Worker, file: SettingsFile, pool: StandInPool, live: Live[WorkerSettings]
) -> None:
    file.write(pool__max_size=9, worker__batch_tasks=0)
    before = live.current
    with pytest.raises(ReloadRefusedError, match=r"worker\.batch_tasks=0"):
        process.reload()
    assert live.current is before
    assert pool.resized == []
    assert "worker.batch_tasks=0" in process.state()["file_fault"]


def test_a_missing_file_changes_nothing(process: Worker, file: SettingsFile) -> None:
    file.path.unlink()
    with pytest.raises(ReloadRefusedError, match="cannot be read"):
        process.reload()
    assert "cannot be read" in process.state()["file_fault"]


def test_live_values_that_need_a_restart_beside_them_are_refused(
    process: Worker, file: SettingsFile, pool: StandInPool
) -> None:
    file.write(worker__threads=1, pool__max_size=2)
    with pytest.raises(ReloadRefusedError, match="needs a restart as a whole"):
        process.reload()
    assert pool.resized == []


def test_sizes_that_the_pool_refuses_change_nothing(
    process: Worker,
    file: SettingsFile,
    pool: StandInPool,
    live: Live[WorkerSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_low: int, _high: int) -> None:
        raise ValueError("too small")

    monkeypatch.setattr(pool, "resize", refuse)
    file.write(pool__max_size=9, worker__batch_tasks=7)
    with pytest.raises(ReloadRefusedError, match="too small"):
        process.reload()
    assert live.current.worker.batch_tasks == 40


def test_drain_drains_the_pool(process: Worker, pool: StandInPool) -> None:
    process.drain()
    assert pool.drained == 1
