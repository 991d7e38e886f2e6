"""Three instances: what status names of them, and which standby a switchover takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from infra.ops import switchover
from infra.ops.clients import patroni
from infra.ops.clients.patroni import Instance
from infra.ops.outcome import RefusedError
from infra.ops.status.bottleneck import bottleneck
from infra.ops.status.sample import Sample, Server
from infra.ops.switchover import _choose

PRIMARY = Instance("postgres-1", "primary", "running", 3, etcd_seconds=0.5)
STANDBY = Instance("postgres-2", "synchronous standby", "streaming", 3, 0, etcd_seconds=0.5)
OTHER = replace(STANDBY, name="postgres-3", lag_bytes=4096)
LOST = Instance("postgres-3", error="connection refused")


def named(*instances: Instance) -> tuple[str, str]:
    found = bottleneck(Sample((), (), Server(error=""), instances=instances))
    return found.where, found.line


def test_a_whole_cluster_is_no_bottleneck() -> None:
    assert named(PRIMARY, STANDBY, OTHER)[0] == "none"


def test_no_primary_is_named_before_what_does_not_answer() -> None:
    where, line = named(replace(STANDBY, name="postgres-1"), STANDBY, LOST)
    assert where == "primary"
    assert "standbys answer reads" in line


def test_without_a_standby_no_write_is_acknowledged() -> None:
    starting = replace(STANDBY, state="starting")
    where, line = named(PRIMARY, starting, LOST)
    assert where == "standbys"
    assert "no standby follows NAME".replace("NAME", "postgres-1") in line


def test_etcd_without_a_quorum_is_named_with_and_without_a_primary() -> None:
    cut = [replace(one, etcd_seconds=30.0) for one in (PRIMARY, STANDBY, OTHER)]
    where, line = named(*cut)
    assert where == "etcd"
    assert line.startswith("etcd has no quorum: postgres-1 stays the primary")
    where, line = named(replace(cut[1], name="postgres-1"), *cut[1:])
    assert (where, "no instance of PostgreSQL is the primary" in line) == ("etcd", True)


def test_a_standby_that_does_not_follow_is_named_when_the_rest_is_well() -> None:
    where, line = named(PRIMARY, STANDBY, replace(OTHER, state="stopped"))
    assert where == "postgres-3"
    assert "NAME does not follow the primary".replace("NAME", where) in line


def test_a_switchover_takes_the_synchronous_standby_with_the_least_lag() -> None:
    behind = replace(STANDBY, lag_bytes=8192)
    assert _choose((PRIMARY, behind, OTHER)) == "postgres-3"
    assert _choose((PRIMARY, behind, replace(OTHER, role="standby"))) == "postgres-2"
    assert _choose((PRIMARY, STANDBY, OTHER), "postgres-3") == "postgres-3"


@pytest.mark.parametrize("candidate", ["postgres-1", "postgres-4", "etcd-1"])
def test_a_switchover_to_what_is_no_standby_is_refused(candidate: str) -> None:
    with pytest.raises(RefusedError, match=f"TO={candidate} is"):
        _choose((PRIMARY, STANDBY, OTHER), candidate)


class Cluster:
    """Three instances that follow once they are restarted, and what was done to them."""

    def __init__(self, *instances: Instance) -> None:
        self.instances = {one.name: one for one in instances}
        self.done: list[str] = []

    def look(self, _settings: object) -> tuple[Instance, ...]:
        return tuple(self.instances.values())

    def ask_host(self, _step: str, name: str) -> None:
        self.done.append(name)
        self.instances[name] = replace(STANDBY, name=name, started=f"after {len(self.done)}")

    def switch(self, _settings: object, _directory: object, _operation: object, to: str) -> float:
        former = next(one.name for one in self.instances.values() if one.is_primary)
        self.done.append(f"switchover to {to}")
        self.instances |= {
            to: replace(PRIMARY, name=to),
            former: replace(STANDBY, name=former),
        }
        return 1.0


def rolled(monkeypatch: pytest.MonkeyPatch, *instances: Instance) -> list[str]:
    cluster = Cluster(*instances)
    monkeypatch.setattr(patroni, "look", cluster.look)
    monkeypatch.setattr(switchover, "to", cluster.switch)
    operation = Mock(ask_host=cluster.ask_host)
    switchover._rolling(SimpleNamespace(), Path(), operation)  # type: ignore[arg-type]
    return cluster.done


def test_restarts_go_from_the_standbys_over_a_switchover_to_the_former_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = rolled(monkeypatch, PRIMARY, STANDBY, OTHER)
    assert done == ["postgres-2", "postgres-3", "switchover to postgres-2", "postgres-1"]


def test_the_one_that_does_not_follow_is_restarted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done = rolled(monkeypatch, PRIMARY, STANDBY, LOST)
    assert done == ["postgres-3", "postgres-2", "switchover to postgres-2", "postgres-1"]


def test_with_two_that_do_not_follow_nothing_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = replace(LOST, name="postgres-2")
    with pytest.raises(RefusedError, match="postgres-2: connection refused; postgres-3"):
        rolled(monkeypatch, PRIMARY, lost, LOST)


class Led:
    """A primary that HAProxy leads to only after some connections."""

    def __init__(self, refused: int) -> None:
        self.left = refused

    def __call__(self, _settings: object) -> Led:
        self.left -= 1
        if self.left >= 0:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return self

    def __enter__(self) -> Any:
        return SimpleNamespace(started_at=lambda: "2026-11-29 20:00:00+00")

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("refused", [0, 2])
def test_a_primary_that_haproxy_leads_to_in_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    monkeypatch.setattr(switchover, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(switchover, "PostgresAdmin", Led(refused))
    assert switchover._started_at(SimpleNamespace()) == "2026-11-29 20:00:00+00"  # type: ignore[arg-type]


def test_a_primary_that_haproxy_does_not_lead_to_ends_it_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(switchover, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(switchover, "_LED_SECONDS", 0.05)
    monkeypatch.setattr(switchover, "PostgresAdmin", Led(10_000))
    with pytest.raises(psycopg.OperationalError, match="closed the connection"):
        switchover._started_at(SimpleNamespace())  # type: ignore[arg-type]
