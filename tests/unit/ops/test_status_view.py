"""The screen of `status`: whole in a terminal of eighty columns."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from infra.ops.status.sample import AppProcess, Pooler, RoleSessions, Sample, Server, ServerPool
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


def shown(*poolers: Pooler) -> str:
    text = StringIO()
    Console(file=text, width=80).print(screen(Sample((APP,), poolers, SERVER)))
    return text.getvalue()


@pytest.mark.parametrize("paused", [False, True])
def test_nothing_is_cut_off_in_eighty_columns(paused: bool) -> None:
    text = shown(Pooler("sluice-pgbouncer-1", paused=paused, pools=(POOL,)))
    assert "…" not in text
    for part in ("9999", "999", "9.876543", "9876.5", "16+4", "risk_monitor"):
        assert part in text
    assert ("Paused: sluice-pgbouncer-1" in text) is paused


def test_a_replica_that_does_not_answer_has_its_whole_name() -> None:
    whole = Pooler("sluice-pgbouncer-1", pools=(POOL,))
    text = shown(whole, Pooler("sluice-pgbouncer-2", error="timed out"))
    assert "Unreachable: sluice-pgbouncer-2: timed out" in text
    assert "…" not in text
