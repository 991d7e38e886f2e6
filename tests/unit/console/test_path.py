"""What the page gets of a look: the numbers of its charts, and no statement of a caller."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from infra.config import documents
from infra.config.build import check
from infra.console import path
from infra.console.path import Files, PathWatch, planned, point
from infra.ops import plan
from infra.ops.clients import app_control
from infra.ops.running import Running
from infra.ops.status.sample import (
    AppProcess,
    LastMinute,
    Pooler,
    RoleSessions,
    Sample,
    Server,
    ServerPool,
    Session,
)
from tests.fix_stack import REPOSITORY

APP = AppProcess("api", "api-1", size=4, max_size=16, in_use=3, waiting=2)
POOL = ServerPool(
    "risk",
    "risk_api",
    clients_waiting=5,
    servers_active=2,
    transactions_per_second=30.0,
    transaction_ms=2.0,
)
BATCH = ServerPool(
    "risk_batch", "risk_worker", servers_active=1, transactions_per_second=10.0, transaction_ms=6.0
)
CHECKS = ServerPool("risk_monitor", "sluice_monitor", servers_active=1, transaction_ms=900.0)
POOLER = Pooler("pgbouncer-1", pools=(POOL, BATCH, CHECKS))
SECRET = Session(11, "risk_api", 1.0, "SELECT 'a value of a caller'")
SERVER = Server(
    60,
    2,
    (RoleSessions("risk_api", 20, {"idle": 4}),),
    oldest=SECRET,
    blocked=(SECRET,),
    holders=(SECRET,),
    idle=(SECRET,),
)
SAMPLE = Sample((APP,), (POOLER,), SERVER, last_minute=LastMinute(120, 1, 0.05))


def test_a_point_has_the_path_s_numbers_without_the_checks() -> None:
    assert point(SAMPLE) == {
        "p95_ms": 50.0,
        "requests_per_second": 2.0,
        "transaction_ms": 3.0,
        "wait_ms": 0.0,
        "transactions_per_second": 40.0,
        "app_waiting": 2,
        "pgbouncer_waiting": 5,
        "app_in_use": 3,
        "servers_active": 3,
        "sessions": 4,
    }


def test_what_does_not_answer_is_a_gap_and_no_zero() -> None:
    silent = Sample(
        (AppProcess("api", "api-1", error="x"),), (Pooler("p", error="x"),), Server(error="x")
    )
    assert set(point(silent).values()) == {None}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return compiled files of the default env file, and that file."""
    env_file = REPOSITORY / "infra" / "env" / "stack.env"
    found = check(env_file).values
    tmp_path.joinpath("compiled.json").write_text(json.dumps(documents.compiled(found)))
    tmp_path.joinpath("ops.json").write_text(json.dumps(documents.ops(found)))
    return Files(env_file, tmp_path)


class Collector:
    """Finds the same sample each time."""

    made: list[Collector]

    def __init__(self, *_: object, **__: object) -> None:
        self.closed = False
        self.made.append(self)

    def sample(self) -> Sample:
        return SAMPLE

    def close(self) -> None:
        self.closed = True


class Control:
    """Has nothing to close."""

    def close(self) -> None:
        pass


@pytest.fixture
def watch(files: Files, monkeypatch: pytest.MonkeyPatch) -> PathWatch:
    """Return a watch that needs no stack."""
    Collector.made = []
    monkeypatch.setattr(path, "Collector", Collector)
    monkeypatch.setattr(app_control, "connect", lambda *_, **__: Control())
    return PathWatch(files)


def test_a_look_has_the_verdict_of_status_and_no_text_of_a_statement(watch: PathWatch) -> None:
    document: dict[str, Any] = watch.look()
    assert "a value of a caller" not in json.dumps(document)
    assert document["bottleneck"]["where"] == "locks"
    assert document["bottleneck"]["tier"] == "postgres"
    assert document["budget"]["max_connections"] == 60
    assert document["point"] == point(SAMPLE)


def test_ten_minutes_are_kept(watch: PathWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    for now in range(0, 1300, 100):
        monkeypatch.setattr(time, "monotonic", lambda now=now: float(now))
        watch.look()
    history = watch.history()
    assert history["times"] == [float(at) for at in range(600, 1300, 100)]
    assert all(len(line) == len(history["times"]) for line in history["lines"].values())


def test_sessions_last_until_the_operator_s_files_are_others(
    watch: PathWatch, files: Files
) -> None:
    watch.look()
    watch.look()
    assert len(Collector.made) == 1
    files.settings.with_name("operator.password").write_text("another")
    watch.look()
    assert [one.closed for one in Collector.made] == [True, False]


def test_before_the_first_compile_the_look_says_which_file_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ops\.json"):
        PathWatch(Files(tmp_path / "stack.env", tmp_path)).look()


def test_the_plan_has_what_is_pending_and_what_runs(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "stack.env"
    text = files.env_file.read_text(encoding="utf-8")
    changed.write_text(text.replace("API_POOL_MAX_SIZE=16", "API_POOL_MAX_SIZE=12"))
    # Nothing runs: the record of the last compile counts.
    nothing_runs = lambda _, recorded: Running((), recorded=recorded)  # noqa: E731
    monkeypatch.setattr(plan, "_look", nothing_runs)
    document = planned(Files(changed, files.directory))
    (one,) = document["differences"]
    assert (one["setting"], one["was"], one["now"]) == ("API_POOL_MAX_SIZE", 16, 12)
    assert document["running"]["API_POOL_MAX_SIZE"] == 16
    json.dumps(document)


def test_a_wrong_value_is_a_fault_of_the_plan(files: Files, tmp_path: Path) -> None:
    changed = tmp_path / "stack.env"
    text = files.env_file.read_text(encoding="utf-8")
    changed.write_text(text.replace("API_POOL_MAX_SIZE=16", "API_POOL_MAX_SIZE=none"))
    document = planned(Files(changed, files.directory))
    assert not document["ok"]
    assert "API_POOL_MAX_SIZE" in document["faults"][0]["message"]
    assert document["running"] == {}
