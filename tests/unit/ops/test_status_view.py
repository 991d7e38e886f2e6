"""The screen of `status`: whole in a terminal of eighty columns."""

from __future__ import annotations

import signal
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from infra.ops.clients import app_control
from infra.ops.clients.processes import OpsSettings
from infra.ops.outcome import Exit
from infra.ops.status import view
from infra.ops.status.collect import host_facts
from infra.ops.status.sample import (
    AppProcess,
    Container,
    Disk,
    HostFacts,
    LastMinute,
    Pooler,
    RoleSessions,
    Sample,
    Server,
    ServerPool,
    Session,
)
from infra.ops.status.view import screen

APP = AppProcess(
    "worker", "sluice-worker-12", size=16, max_size=16, in_use=16, waiting=64, max_waiting=64
)
POOL = ServerPool(
    "risk_monitor",
    "sluice_monitor",
    clients_active=9999,
    clients_waiting=999,
    max_wait_seconds=9.876543,
    servers_active=16,
    servers_idle=16,
    pool_size=16,
    reserve_size=4,
    queries_per_second=9876.5,
    query_ms=99.99,
    transaction_ms=99.99,
    wait_ms=99.99,
)
SERVER = Server(60, 2, (RoleSessions("risk_worker", 28, {"idle": 4, "active": 4}),), on_cpu=1)


def shown(*poolers: Pooler, server: Server = SERVER, **more: Any) -> str:
    text = StringIO()
    Console(file=text, width=80).print(screen(Sample((APP,), poolers, server, **more)), crop=False)
    return text.getvalue()


@pytest.mark.parametrize("paused", [False, True])
def test_nothing_is_cut_off_in_eighty_columns(paused: bool) -> None:
    text = shown(Pooler("sluice-pgbouncer-1", paused=paused, server_hop="socket", pools=(POOL,)))
    assert "server connections by socket" in text
    assert "…" not in text
    for part in ("9999", "999", "9.876543", "9876.5", "16+4", "risk_monitor"):
        assert part in text
    assert ("Paused: sluice-pgbouncer-1" in text) is paused


def test_a_replica_that_does_not_answer_has_its_whole_name() -> None:
    whole = Pooler("sluice-pgbouncer-1", pools=(POOL,))
    text = shown(whole, Pooler("sluice-pgbouncer-2", error="timed out"))
    assert "Unreachable: sluice-pgbouncer-2: timed out" in text
    assert "…" not in text


def test_each_new_fact_is_one_line_of_eighty_columns() -> None:
    name, since = "sluice-pgbouncer-12", "2026-01-01T00:00:00Z"
    container = Container("pgbouncer", name, "running", since, 137, 1000, "unhealthy")
    text = shown(
        server=replace(SERVER, tasks_queued=1_000_000, tasks_running=1000),
        host=HostFacts((container,), Disk(2**42, 2**41)),
        last_minute=LastMinute(100_000, 10_000, 12.3456),
    )
    lines = text.splitlines()
    assert "Requests: 100000 in the last minute, 10000 errors (10.0 %), p95 12.346 s" in lines
    assert "Tasks: 1000000 queued, 1000 running" in lines
    assert all(len(line) <= 80 for line in lines)
    unknown = shown().splitlines()
    assert "Tasks: not known" in unknown
    assert "Requests: not known, no api process answers" in unknown
    assert "Containers and disk: not known here, nor with WATCH=yes; see make status" in unknown
    without = shown(last_minute=LastMinute(0, 0, None)).splitlines()
    assert "Requests: none in the last minute" in without


def test_each_command_is_a_line_of_its_own_and_whole() -> None:
    name = "a-project-with-a-very-long-name-indeed-and-more-of-it-still-pgbouncer-1"
    down = Container("pgbouncer", name, "exited", "2026-01-01T00:00:00Z", 137)
    lines = shown(host=HostFacts((down,))).splitlines()
    assert lines[-2:] == [f"docker logs --tail 20 {name}", f"docker start {name}"]


def test_the_line_that_ends_a_lock_can_be_pasted() -> None:
    blocked = Session(11, "risk_api", 0.9, "UPDATE", blocked_by=(10,))
    holder = Session(10, "postgres", 31.0, "BEGIN", state="idle in transaction")
    lines = shown(server=replace(SERVER, blocked=(blocked,), holders=(holder,))).splitlines()
    assert lines[-2:] == ["make psql", "SELECT pg_terminate_backend(10);"]


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"service": "api"}', '{"disk": {"size": 1}}'])
def test_facts_that_the_host_did_not_print_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+Error: .+$"):
        host_facts(text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_watching(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    class Signalled:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def sample(self) -> Sample:
            signal.raise_signal(number)
            raise AssertionError

        def close(self) -> None:
            pass

    monkeypatch.setattr(view, "Collector", Signalled)
    monkeypatch.setattr(app_control, "connect", lambda _: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        settings = OpsSettings({"postgres": {"processors": 2, "instances": ["postgres"]}})
        code = view.show(settings, as_json=False, watch=True, every_seconds=1.0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == Exit.OK
