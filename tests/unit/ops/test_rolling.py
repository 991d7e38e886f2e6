"""What a rolling operation refuses, and how it ends the connections of applications."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from infra.ops import rolling
from infra.ops.clients import pgbouncer
from infra.ops.clients.app_control import Control
from infra.ops.clients.processes import OpsSettings, Target
from infra.ops.operation import Operation
from infra.ops.outcome import RefusedError
from infra.ops.rolling import Roller
from tests.unit.ops.support import LIMITS

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


class Console:
    """A replica's console, with so many clients of an application each time that it is asked."""

    def __init__(self, clients: list[int]) -> None:
        self.clients = clients
        self.done: list[str] = []

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shutdown(self, mode: str) -> None:
        self.done.append(f"SHUTDOWN {mode}")

    def set(self, key: str, value: str) -> None:
        self.done.append(f"{key} {value}")

    def pause(self, *, seconds: float) -> None:
        self.done.append(f"PAUSE {seconds}")

    def show(self, _: str) -> Iterator[dict[str, Any]]:
        count = self.clients.pop(0) if len(self.clients) > 1 else self.clients[0]
        return iter([{"database": "billing", "application_name": ""}] * count)


TWO = (*ONE, Target("sluice-pgbouncer-2", "pgbouncer", "192.0.2.2", 6432))
SHUTDOWN = "SHUTDOWN WAIT_FOR_CLIENTS"


@pytest.mark.parametrize(
    ("clients", "done"),
    [
        # The first question is for the app's own.
        ([0, 0], [SHUTDOWN]),
        ([3, 3, 0], [SHUTDOWN, "client_idle_timeout 1.0"]),
        ([3, 3, 2, 0], [SHUTDOWN, "client_idle_timeout 1.0", "client_idle_timeout 0.3"]),
        (
            [3],
            [
                SHUTDOWN,
                *(f"client_idle_timeout {idle}" for idle in (1.0, 0.3, 0.1, 0.02)),
                "PAUSE 1",
            ],
        ),
    ],
)
def test_connections_of_applications_end_when_they_are_idle_the_others_by_a_pause(
    roller: Roller, monkeypatch: pytest.MonkeyPatch, clients: list[int], done: list[str]
) -> None:
    console = Console(clients)
    monkeypatch.setattr(rolling, "PgBouncerAdmin", lambda *_, **__: console)
    monkeypatch.setattr(rolling, "IDLE_STEPS", tuple((idle, 0) for idle, _ in rolling.IDLE_STEPS))
    monkeypatch.setattr(pgbouncer, "require", lambda *_: TWO)
    monkeypatch.setattr(pgbouncer, "await_all", lambda *_, **__: TWO)
    monkeypatch.setattr(Operation, "ask_host", lambda *_: None)
    monkeypatch.setattr(Control, "targets", lambda _: ())
    roller.settings.values["pause"] = LIMITS | {"dead_man_seconds": 4}
    roller.retire(TWO[1].name)
    assert console.done == done
