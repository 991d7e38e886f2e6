"""What a rolling restart refuses before it touches anything."""

from __future__ import annotations

import ssl

import pytest

from infra.ops.clients import pgbouncer
from infra.ops.clients.app_control import Control
from infra.ops.clients.processes import OpsSettings, Target
from infra.ops.operation import Operation
from infra.ops.outcome import RefusedError
from infra.ops.rolling import Roller

ONE = (Target("sluice-pgbouncer-1", "pgbouncer", "192.0.2.1", 6432),)


@pytest.fixture
def roller(monkeypatch: pytest.MonkeyPatch) -> Roller:
    """Return a roller that finds one replica."""
    monkeypatch.setattr(pgbouncer, "require", lambda *_: ONE)
    control = Control(9000, {}, {}, {}, {}, ssl.create_default_context())
    return Roller(OpsSettings({"pgbouncer": {"replicas": 1}}), control, Operation("a test"))


def test_a_single_replica_is_not_restarted_and_the_way_out_is_named(roller: Roller) -> None:
    with pytest.raises(RefusedError, match="make scale-pgbouncer N=2"):
        roller.restart()


def test_the_last_replica_is_not_retired(roller: Roller) -> None:
    with pytest.raises(RefusedError, match="not one of several"):
        roller.retire("sluice-pgbouncer-1")


def test_a_replica_that_does_not_run_is_not_retired(roller: Roller) -> None:
    with pytest.raises(RefusedError, match="sluice-pgbouncer-7 is not one of several"):
        roller.retire("sluice-pgbouncer-7")
