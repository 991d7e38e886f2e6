"""Three instances: what status names of them, and which standby a switchover takes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from infra.ops import switchover
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
