"""What a swarm cannot carry is named, all of it at once."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue, documents
from infra.config.__main__ import main as config
from infra.config.settings import Values
from infra.swarm import rules
from infra.swarm.__main__ import main
from infra.swarm.rules import Facts, Node
from tests.unit.infra.support import judge, write_env

FILE = "infra/env/stack.env"
GOOD = {
    "API_BIND_ADDRESS": "0.0.0.0",
    "BACKUPS": "off",
    "PGBOUNCER_SERVER_HOP": "tls",
    "POSTGRES_INSTANCES": 3,
}
GB = 1024**3


def _node(number: int, **changed: Any) -> Node:
    labels = {"sluice.postgres": str(number), "sluice.etcd": str(number)}
    return replace(Node(f"node-{number}", labels, True, "ready", "active", 4 * GB), **changed)


def _facts(*nodes: Node, **changed: Any) -> Facts:
    there = {one.name: one for one in map(_node, (1, 2, 3))} | {one.name: one for one in nodes}
    return replace(Facts("active", True, tuple(there.values()), has_secrets=True), **changed)


def _faults(directory: Path, facts: Facts, **changed: object) -> list[str]:
    values = judge(directory, **(GOOD | changed)).values
    return [str(fault) for fault in rules.faults(values, facts, file=FILE)]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that has the host's document judged; what is given in it is otherwise.

    It returns the exit code.
    """
    nodes = [
        {
            "ID": one.name,
            "Spec": {"Role": "manager", "Availability": "active", "Labels": one.labels},
            "Description": {"Hostname": one.name, "Resources": {"MemoryBytes": 8 * GB}},
            "Status": {"State": "ready"},
        }
        for one in map(_node, (1, 2, 3))
    ]
    document = {
        "swarm": {"LocalNodeState": "active", "ControlAvailable": True},
        "nodes": nodes,
        "asked": [],
        "stack": False,
        "servers": 0,
        "compose": False,
        "network": None,
    }
    places = {"--env-dir": "", "--out": "out", "--secrets": "secrets"}

    # Of files that `compiled` writes.
    monkeypatch.setattr(os, "chown", lambda *_: None)

    def check(**given: object) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(document | given)))
        return main(["check", *(f"{name}={tmp_path / at}" for name, at in places.items())])

    return check


def compiled(root: Path) -> None:
    """Compile as `config` does, into `out` and `secrets`."""
    places = {"--env-dir": "", "--out": "out", "--secrets": "secrets"}
    assert config([f"{name}={root / at}" for name, at in places.items()]) == 0


def test_three_labelled_nodes_are_enough(tmp_path: Path) -> None:
    assert _faults(tmp_path, _facts()) == []
    assert rules.warnings(_facts()) == ()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (_facts(is_manager=False, state="inactive"), "is no manager (swarm: inactive)"),
        (_facts(compose=True), "runs here under Docker Compose"),
        (_facts(stack=True, has_secrets=False), "its secrets are not on this manager"),
        (
            _facts(stack=True, servers=3, encrypted=False),
            "its networks were made with SWARM_ENCRYPTED=no, not yes, and are not changed while "
            "they are there: make swarm-down, then make swarm-up",
        ),
        (_facts(stack=True, servers=1), "one PostgreSQL server is deployed, not three: make"),
        (
            _facts(_node(2, labels={"sluice.etcd": "2"})),
            "no node has the label sluice.postgres=2; give it to exactly one",
        ),
        (
            _facts(_node(3, labels={"sluice.postgres": "2", "sluice.etcd": "3"})),
            "node-2 and node-3 has the label sluice.postgres=2",
        ),
        (_facts(_node(1, state="down")), "node-1, which has the label sluice.postgres=1, is down"),
        (_facts(_node(1, availability="drain")), "set to drain: docker node update"),
        (_facts(_node(2, missing=("sluice-app:1",))), "node-2 lacks sluice-app:1"),
        (_facts(_node(2, error="no route")), "node-2 cannot be asked (no route)"),
        (_facts(_node(3, clock_seconds=7.25)), "the clock of node-3 is 7.2 s from this machine's"),
        (_facts(*(_node(one, memory_bytes=GB) for one in (1, 2, 3))), "and the nodes have 3072 MB"),
    ],
)
def test_a_fault_of_the_swarm_is_named(tmp_path: Path, facts: Facts, said: str) -> None:
    assert any(said in fault for fault in _faults(tmp_path, facts))


def test_three_instances_stay_three(tmp_path: Path) -> None:
    changed = {"POSTGRES_INSTANCES": 1, "BACKUPS": "on"}
    (fault,) = _faults(tmp_path, _facts(stack=True, servers=3), **changed)
    assert "there is no way back to one" in fault
    assert _faults(tmp_path, _facts(stack=True, servers=3)) == []
    assert _faults(tmp_path, _facts(stack=True, servers=1), **changed) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"API_BIND_ADDRESS": "127.0.0.1"}, "API_BIND_ADDRESS=127.0.0.1: on several machines"),
        ({"PGBOUNCER_PORT": 6432}, "PGBOUNCER_PORT=6432"),
        ({"BACKUPS": "on"}, "BACKUPS=on: on several machines it must be off"),
        ({"COMPOSE_PROFILES": "observability"}, "COMPOSE_PROFILES=observability"),
        (
            {"POSTGRES_INSTANCES": 1, "PGBOUNCER_SERVER_HOP": "socket"},
            "PGBOUNCER_SERVER_HOP=socket: on several machines it must be tls",
        ),
    ],
)
def test_a_setting_of_a_single_machine_is_refused(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    (fault,) = _faults(tmp_path, _facts(), **changed)
    assert fault.startswith(FILE)
    assert said in fault


def test_one_instance_takes_one_label_and_no_etcd(tmp_path: Path) -> None:
    facts = _facts(*(_node(one, labels={}) for one in (2, 3)))
    assert _faults(tmp_path, facts, POSTGRES_INSTANCES=1, BACKUPS="on") == []


def test_few_managers_and_idle_nodes_are_warned_of() -> None:
    facts = _facts(_node(2, is_manager=False), _node(3, state="down"))
    few, idle = (str(one) for one in rules.warnings(facts))
    assert "2 of 3 nodes manage the swarm" in few
    assert "node-3 is down" in idle


@pytest.mark.parametrize(("shift", "apart"), [(0.5, 0.0), (-3.0, 3.0), (4.0, 3.0)])
def test_a_clock_is_judged_by_the_span_of_the_answer(shift: float, apart: float) -> None:
    # Nine digits of a second, as Docker writes them; 2030-06-01 12:00:00 UTC.
    began = 1_906_545_600.0
    hour, second = (11, 60 + int(shift)) if shift < 0 else (12, int(shift))
    minute = 59 if shift < 0 else 0
    fraction = "500000000" if shift == 0.5 else "000000000"
    document = {
        "ID": "a",
        "Spec": {"Role": "worker", "Availability": "active"},
        "Description": {"Hostname": "node-1", "Resources": {"MemoryBytes": GB}},
        "Status": {"State": "ready"},
    }
    time = f"2030-06-01T{hour:02}:{minute:02}:{second:02}.{fraction}Z"
    node = Node.of(document, {"before": began, "after": began + 1, "time": time})
    assert node.clock_seconds == pytest.approx(apart)


@pytest.mark.parametrize(
    ("unfinished", "direction"), [(None, "upwards"), (16, "downwards"), (2, "upwards")]
)
def test_a_repeated_apply_goes_in_the_direction_of_the_one_that_was_not_finished(
    tmp_path: Path,
    checked: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    unfinished: int | None,
    direction: str,
) -> None:
    wanted = judge(tmp_path, **GOOD, POSTGRES_BACKUP_CONNECTIONS=6).values
    records = tmp_path / "out" / "ops"
    records.mkdir(parents=True)

    def record(name: str, **changed: int) -> None:
        values = Values(wanted.as_dict() | changed)
        (records / name).write_text(json.dumps(documents.compiled(values)))

    record("compiled.json")
    if unfinished:
        record("unfinished.json", API_REPLICAS=unfinished, API_POOL_MAX_SIZE=100)
    assert checked() == 0
    assert capsys.readouterr().out == f"{direction}\n"


def test_every_fault_is_said_and_nothing_else_is_printed(
    tmp_path: Path, checked: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_env(tmp_path, POSTGRES_INSTANCES=2)
    manages_nothing = {"LocalNodeState": "inactive", "ControlAvailable": False}
    assert checked(swarm=manages_nothing, nodes=[]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "POSTGRES_INSTANCES=2" in printed.err
    assert "is no manager" in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", ["no volume", "an empty volume", "secrets"])
def test_secrets_are_there_only_where_the_volume_has_them(
    tmp_path: Path,
    checked: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    made: str,
) -> None:
    write_env(tmp_path, **GOOD, POSTGRES_BACKUP_CONNECTIONS=6)
    if made != "no volume":
        (tmp_path / "secrets").mkdir()
    if made == "secrets":
        compiled(tmp_path)
    assert checked(stack=True, servers=3) == (0 if made == "secrets" else 2)
    said = "its secrets are not on this manager" in capsys.readouterr().err
    assert said is (made != "secrets")


def test_whichever_setting_is_mistyped_every_fault_is_said(tmp_path: Path) -> None:
    facts = _facts(_node(2, missing=("sluice-app:1",)), stack=True, servers=3)
    for name in catalogue.by_name():
        found = _faults(tmp_path, facts, **{name: "x-"})
        assert any("node-2 lacks sluice-app:1" in fault for fault in found), name


def test_a_mistyped_setting_is_refused_with_the_rest(
    tmp_path: Path, checked: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {"POSTGRES_INSTANCES": "three", "WORKER_REPLICAS": "many", "PGBOUNCER_PORT": 6432}
    write_env(tmp_path, **(GOOD | changed))
    assert checked() == 2
    said = capsys.readouterr().err
    for one in changed:
        assert f"{one}={changed[one]}" in said


@pytest.mark.parametrize("wanted", ["yes", "no"])
@pytest.mark.parametrize("options", [{"vxlanid_list": "4097"}, {"encrypted": ""}, None])
def test_networks_that_are_there_are_as_the_setting_has_them(
    tmp_path: Path,
    checked: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    wanted: str,
    options: dict[str, str] | None,
) -> None:
    write_env(tmp_path, **GOOD, POSTGRES_BACKUP_CONNECTIONS=6, SWARM_ENCRYPTED=wanted)
    differs = options is not None and ("encrypted" in options) is (wanted == "no")
    assert checked(network=options) == (2 if differs else 0)
    said = f"not {wanted}, and are not changed while they are there: docker network rm"
    assert (said in capsys.readouterr().err) is differs


@pytest.mark.parametrize(
    "name",
    [
        "ca.crt",
        "sluice_operator.password",
        "sluice_monitor.password",
        "sluice_replication.password",
    ],
)
def test_another_secret_between_tiers_takes_the_stack_down_first(
    tmp_path: Path,
    checked: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    secrets = tmp_path / "secrets"
    for root in (tmp_path / "other", tmp_path):
        root.mkdir(exist_ok=True)
        write_env(root, **GOOD, POSTGRES_BACKUP_CONNECTIONS=6)
        compiled(root)
    assert checked(stack=True, servers=3) == 0
    # What only the app and its PgBouncers have may be another one.
    for one in (name, name.replace(".crt", ".key"), "risk_api.password"):
        (secrets / one).chmod(0o600)
        (secrets / one).write_bytes((tmp_path / "other" / "secrets" / one).read_bytes())
    capsys.readouterr()
    assert checked(stack=True, servers=3) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{secrets}: {name}: not what this manager compiled last")
    assert said.endswith("make swarm-down, then make swarm-up\n")
    assert said.count("\n") == 1
    assert checked() == 0


def test_a_secret_of_the_servers_that_is_gone_is_not_made_anew_beside_them(
    tmp_path: Path,
    checked: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_env(tmp_path, **GOOD, POSTGRES_BACKUP_CONNECTIONS=6)
    compiled(tmp_path)
    (tmp_path / "secrets" / "sluice_replication.password").unlink()
    assert checked(stack=True, servers=3) == 2
    assert (
        "sluice_replication.password: not what this manager compiled last"
        in capsys.readouterr().err
    )
