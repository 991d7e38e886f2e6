"""The processes of the api's container: how many there are, where, and what plan says of them."""

from __future__ import annotations

import ssl
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from infra.config import catalogue
from infra.config.settings import Change, Values
from infra.ops import plan, running
from infra.ops.clients import app_control
from infra.ops.clients.app_control import Control, ControlError, PoolNumbers, ProcessState
from infra.ops.clients.processes import OpsSettings, Target
from infra.ops.process_settings import expected
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
            raise ControlError("state: ConnectError")
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
    found = control(monkeypatch, compiled=2, says={9000: 1})
    monkeypatch.setattr(app_control, "connect", lambda _: found)
    monkeypatch.setattr(running, "_postgres", lambda _: ())
    monkeypatch.setattr(running, "_pgbouncers", lambda _: ())
    looked = running.look(OpsSettings({"pgbouncer": {"replicas": 0}}))
    assert "api" not in looked.missing()


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
