"""The processes of the api's container: how many there are, where, and what plan says of them."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue
from infra.config.settings import Change, Values
from infra.ops import plan, running
from infra.ops.clients import app_control, pgbouncer
from infra.ops.clients.app_control import (
    Control,
    ControlError,
    NotListeningError,
    PoolNumbers,
    ProcessState,
    not_up,
)
from infra.ops.clients.processes import Answer, OpsSettings, Target, everywhere
from infra.ops.outcome import RefusedError
from infra.ops.process_settings import expected
from infra.ops.reloading import Reloader, StepError
from infra.ops.rotation import sessions
from infra.ops.running import Process, Running

CONTAINER = Target("api-1", "api-control", "192.0.2.11", 9000)
WORKERS = tuple(Target(f"worker-{n}", "worker-control", f"192.0.2.2{n}", 9000) for n in (1, 2))
POOL = PoolNumbers("risk", 0, 0, 0, 0, 0, 0, 0)


def control(monkeypatch: pytest.MonkeyPatch, *, compiled: int, says: dict[int, int]) -> Control:
    """Return a control plane; `says` has the number that the process on a port runs with."""

    def state(_: Control, target: Target) -> ProcessState:
        if target in WORKERS:
            return ProcessState(target, "worker", target.name, 1, "", {}, POOL, ())
        if target.port not in says:
            raise NotListeningError("state: ConnectError")
        settings = {"processes": says[target.port]}
        return ProcessState(target, "api", "api", target.port, "", settings, POOL, ())

    found = {"api-control": (CONTAINER,), "worker-control": WORKERS}
    monkeypatch.setattr(app_control, "resolve", lambda host, _: found[host])
    monkeypatch.setattr(Control, "state", state)
    aliases = {"api": "api-control", "worker": "worker-control"}
    replicas, processes = {"api": 1, "worker": 2}, {"api": compiled, "worker": 2}
    return Control(9000, aliases, replicas, processes, {}, ssl.create_default_context())


@pytest.mark.parametrize(
    ("compiled", "says", "ports"),
    [
        (1, {9000: 1}, [9000]),
        (2, {9000: 2, 9001: 2}, [9000, 9001]),
        # A change that waits for the restart.
        (2, {9000: 1}, [9000]),
        (1, {9000: 3, 9001: 3, 9002: 3}, [9000, 9001, 9002]),
        # The first has died and its slot has no new process yet.
        (2, {9001: 2}, [9000, 9001]),
        # Nobody answers.
        (2, {}, [9000, 9001]),
    ],
)
def test_the_processes_are_as_many_as_those_that_run_say(
    monkeypatch: pytest.MonkeyPatch, compiled: int, says: dict[int, int], ports: list[int]
) -> None:
    found = control(monkeypatch, compiled=compiled, says=says).targets("api")
    assert [one.port for one in found] == ports
    assert {(one.container, one.address, one.host) for one in found} == {
        ("api-1", "192.0.2.11", "api-control")
    }


def test_a_process_has_a_name_of_its_own_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several = control(monkeypatch, compiled=2, says={9000: 2}).targets()
    assert [one.name for one in several] == [
        *("api-1 process 1", "api-1 process 2"),
        *("worker-1", "worker-2"),
    ]
    one = control(monkeypatch, compiled=1, says={9000: 1}).targets("api")
    assert one == (CONTAINER,)


def test_what_is_absent_is_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    found = control(monkeypatch, compiled=2, says={9000: 2, 9001: 2})
    assert found.absent() == {}
    few = replace(found, replicas={"api": 1, "worker": 3})
    assert few.absent() == {"worker": "2 of 3 worker containers have an address"}
    assert few.absent("api") == {}


def test_processes_that_the_compiled_number_does_not_count_are_not_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = looked(control(monkeypatch, compiled=2, says={9000: 1}), monkeypatch)
    assert "api" not in found.missing()


def looked(found: Control, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(app_control, "connect", lambda _: found)
    monkeypatch.setattr(running, "_postgres", lambda _: ())
    monkeypatch.setattr(running, "_pgbouncers", lambda _: ())
    return running.look(OpsSettings({"pgbouncer": {"replicas": 0}}))


def test_a_process_that_is_not_up_while_another_is_keeps_nobody_from_changing_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = looked(control(monkeypatch, compiled=2, says={9000: 2}), monkeypatch)
    assert not [one for one in found.faults() if one.startswith("api")]
    (line,) = found.not_up()
    assert line.startswith("api-1 process 2 (192.0.2.11): state: ConnectError")


def test_where_no_process_of_the_api_is_up_each_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(control(monkeypatch, compiled=2, says={}), monkeypatch)
    assert [one for one in found.faults() if one.startswith("api")] == [
        "api-1 process 1 (192.0.2.11): state: ConnectError",
        "api-1 process 2 (192.0.2.11): state: ConnectError",
    ]
    assert found.not_up() == []


def test_who_does_not_listen_is_distinguished_from_who_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane = Control(
        9000, {"api": "api-control"}, {}, {}, {"api": "t"}, ssl.create_default_context()
    )
    monkeypatch.setattr(app_control, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(app_control, "CONNECT_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        target = replace(CONTAINER, address="127.0.0.1", port=listener.getsockname()[1])
        (refused,) = everywhere([target], plane.state)
        listener.listen(1)
        (silent,) = everywhere([target], plane.state)
    other = Answer(replace(target, port=9000), refused.value)
    assert not_up((other, refused, silent)) == (refused,)
    assert not_up((refused, silent)) == ()
    assert type(silent.raised) is ControlError


def reloader(found: Control, said: list[str]) -> Reloader:
    return Reloader(OpsSettings({}), found, Path(), 0.0, said.append, said.append)


def test_a_reload_goes_on_without_a_process_that_is_not_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = control(monkeypatch, compiled=2, says={9000: 2}), list[str]()
    monkeypatch.setattr(Control, "reload", Control.state)
    reloader(found, said).app(values())
    assert said[0].startswith("api-1 process 2 (192.0.2.11): state: ConnectError")


def test_a_reload_fails_where_no_process_of_the_api_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = control(monkeypatch, compiled=2, says={})
    monkeypatch.setattr(Control, "reload", Control.state)
    with pytest.raises(StepError, match="api-1 process 1"):
        reloader(found, []).app(values())


def test_a_rotation_is_refused_by_the_name_of_who_is_not_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = control(monkeypatch, compiled=2, says={9000: 2})
    monkeypatch.setattr(app_control, "connect", lambda _: found)
    monkeypatch.setattr(pgbouncer, "require", lambda *_: ())
    with pytest.raises(RefusedError, match=r"^api-1 process 2 \(192.0.2.11\): state: Connect"):
        sessions.require_all(OpsSettings({"pgbouncer": {"replicas": 0}}))


def values(**changed: Any) -> Values:
    return Values(catalogue.defaults().as_dict() | {"API_CPUS": Decimal(2), **changed})


def test_a_changed_number_is_a_restart_of_the_api_until_every_process_runs_with_it() -> None:
    old, new = values(API_MEMORY_MB=512), values(API_MEMORY_MB=512, API_PROCESSES=2)

    def running_with(of: Values) -> Running:
        # What was compiled last is the new number already: the restart waits.
        return Running((Process("api", "api-1", expected(of)["api"]),), recorded=new.as_dict())

    before = running_with(old)
    (change,) = before.changes(new)
    assert (change.setting.name, change.was, change.new) == ("API_PROCESSES", "1", 2)
    assert change.cost is Change.RESTART_API
    part = plan.live_part(before.values, new)
    assert part.waiting == ("API_PROCESSES",)
    assert part.values["API_PROCESSES"] == 1
    assert plan.tiers_to_restart(part.waiting) == (("api",), ())
    assert running_with(new).changes(new) == ()


def test_a_limit_that_the_running_processes_need_is_held_back_until_the_restart() -> None:
    two = values(API_MEMORY_MB=512, API_PROCESSES=2, PGBOUNCER_MAX_CLIENT_CONNECTIONS=70)
    one = values(API_MEMORY_MB=512, PGBOUNCER_MAX_CLIENT_CONNECTIONS=54)
    part = plan.live_part(two, one)
    assert part.held == ("PGBOUNCER_MAX_CLIENT_CONNECTIONS",)
    # The other way round it is raised first, live.
    part = plan.live_part(one, two)
    assert (part.waiting, part.held) == (("API_PROCESSES",), ())
    assert part.values["PGBOUNCER_MAX_CLIENT_CONNECTIONS"] == 70


def test_the_number_follows_the_processors_unless_it_is_given() -> None:
    setting = catalogue.by_name()["API_PROCESSES"]
    found = {
        cpus: setting.derived(values(API_CPUS=Decimal(cpus))) for cpus in ("0.5", "1.9", "2", "4.0")
    }
    assert found == {"0.5": 1, "1.9": 1, "2": 2, "4.0": 4}
