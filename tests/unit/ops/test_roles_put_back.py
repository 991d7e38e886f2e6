"""What was set outside on a role or in a server connection: apply puts it back and looks again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue
from infra.ops import outside as module
from infra.ops import plan_view, running
from infra.ops.apply import Apply
from infra.ops.clients.postgres import is_login_refusal
from infra.ops.operation import Operation, Paths
from infra.ops.outcome import Exit, FailedError
from infra.ops.plan import Plan
from infra.ops.process_settings import Fact, expected
from infra.ops.running import Process, Running
from infra.ops.status.bottleneck import bottleneck
from infra.ops.status.collect import outside
from infra.ops.status.sample import Sample, Server
from tests.unit.ops.support import SETTINGS

VALUES = catalogue.defaults()
RECORDED = VALUES.as_dict()
COUNTS = {"postgres": 1, "pgbouncer": 2, "api": 1, "worker": 2}
CHANGED = "roles.risk_api.password"
Make = Callable[..., Apply]


def stack(**changed: Fact) -> Running:
    """Return every tier as compiled, but for facts of PostgreSQL or, with `sessions`, PgBouncer."""
    facts = expected(VALUES)
    sessions = {name: one for name, one in changed.items() if name.startswith("sessions.")}
    roles = {name: one for name, one in changed.items() if name not in sessions}
    changes = {"postgres-1": roles, "pgbouncer-1": sessions}
    names = [f"{tier}-{n}" for tier, count in COUNTS.items() for n in range(1, count + 1)]
    tiers = {name: name.partition("-")[0] for name in names}
    processes = (
        Process(tier, name, facts[tier] | changes.get(name, {})) for name, tier in tiers.items()
    )
    return Running(tuple(processes), recorded=RECORDED)


def planned(before: Running) -> Plan:
    return Plan("stack.env", VALUES, (), (), before)


class Recorder:
    """Stands for a Reloader: what it was asked to do, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def mark_sessions(self) -> None:
        """Note it."""
        self.done.append("mark")

    def reconnect(self) -> None:
        """Note it."""
        self.done.append("reconnect")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Make:
    """Return a maker of an apply to what ran before; later looks find each of `then` in turn."""
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(Apply, "_reloader", lambda _: recorder)

    def made(before: Running, *then: Running) -> Apply:
        looks = iter(then)
        last = then[-1] if then else before
        monkeypatch.setattr(running, "look", lambda *_: next(looks, last))
        operation = Operation("apply")
        return Apply(planned(before), before, SETTINGS, Paths(tmp_path, tmp_path), operation)

    return made


def test_a_role_that_was_set_outside_is_given_anew_by_the_superuser(
    make: Make, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    apply = make(stack(**{CHANGED: "another"}), stack(**{CHANGED: "another"}), stack())
    apply._put_roles_back()
    assert "host: give-roles" in capsys.readouterr().out.splitlines()
    # Sessions that began meanwhile have other settings, also where this command dies now.
    assert recorder.done == ["mark"]
    (said,) = apply._operation.outcome.steps
    assert "roles.risk_api.password is another, compiled is issued" in said
    assert said.endswith("set outside: ALTER ROLE risk_api PASSWORD")


def test_the_steps_begin_with_what_was_put_back(make: Make) -> None:
    """Its own limit is no setting that changes live: it would wait for a restart, as 1."""
    limit = "roles.sluice_operator.connection_limit"
    apply = make(stack(**{limit: Decimal(1)}), stack())
    assert list(apply._part.waiting) == ["POSTGRES_OPERATOR_CONNECTIONS"]
    apply._put_roles_back()
    assert list(apply._part.waiting) == []
    assert apply._before.as_dict() == VALUES.as_dict()


def test_a_role_that_nobody_puts_back_fails_and_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROLES_SECONDS", 0.05)
    wrong = stack(**{"roles.risk_api.default_transaction_read_only": "on"})
    with pytest.raises(FailedError) as failed:
        make(wrong)._put_roles_back()
    assert "roles.risk_api.default_transaction_read_only is on" in str(failed.value)
    assert str(failed.value).endswith("make apply")


@pytest.mark.parametrize(
    "name", ["roles.risk_api.statement_timeout", "roles.risk_worker.connection_limit"]
)
def test_what_the_steps_set_live_needs_no_superuser(
    make: Make, recorder: Recorder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make(stack(**{name: expected(VALUES)["postgres"]["settings.port"]}))._put_roles_back()
    assert recorder.done == []
    assert "host:" not in capsys.readouterr().out


def sampled(
    monkeypatch: pytest.MonkeyPatch, *looks: Running, unknown: tuple[str, ...] = ()
) -> None:
    found = iter(looks)
    monkeypatch.setattr(running, "with_sessions", lambda *_: (next(found), list(unknown)))


def test_what_a_client_has_set_in_a_server_connection_goes_with_it(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = stack(**{"sessions.risk.statement_timeout": "3000 in 3, 0 in 1"})
    apply = make(stack())
    sampled(monkeypatch, leaked, stack(), unknown=("pgbouncer-1: known of 3 of 4",))
    assert apply._put_sessions_back(stack()).deviations(VALUES) == ()
    assert recorder.done == ["reconnect"]
    assert "SET statement_timeout by a client of risk" in apply._operation.outcome.steps[0]
    assert apply._operation.outcome.warnings == ["pgbouncer-1: known of 3 of 4"]


def test_what_a_client_sets_again_at_once_is_not_called_applied(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = stack(**{"sessions.risk.statement_timeout": "0"})
    apply = make(stack())
    sampled(monkeypatch, leaked, leaked)
    found = apply._put_sessions_back(stack())
    apply._judge(found, found.deviations(VALUES), prepare_restart=False)
    assert apply._operation.outcome.exit_code == Exit.FAILED
    assert "sessions.risk.statement_timeout is 0" in apply._operation.outcome.faults[0]


def test_nothing_is_replaced_where_nothing_was_set(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled(monkeypatch, stack())
    assert make(stack())._put_sessions_back(stack()).deviations(VALUES) == ()
    assert recorder.done == []


REFUSED = 'connection failed: FATAL:  password authentication failed for user "sluice_operator"'


def test_an_operator_that_is_refused_is_given_its_password_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    refused = planned(
        Running((Process("postgres", "postgres", {}, error=REFUSED),), recorded=RECORDED)
    )
    looks = iter([refused, planned(stack())])
    operation = Operation("apply")
    assert module.let_in(refused, lambda: next(looks), operation).before == stack()
    assert "host: give-roles" in capsys.readouterr().out.splitlines()
    assert "it was set outside" in operation.outcome.steps[0]
    assert not is_login_refusal("connection refused")


def test_the_plan_names_the_cause_and_the_way_back() -> None:
    plan = planned(stack(**{CHANGED: "another"}))
    assert plan_view._drift(plan) == [
        "differs from the last compile: postgres-1: roles.risk_api.password is another, compiled "
        "is issued; set outside: ALTER ROLE risk_api PASSWORD",
        "make apply puts back what was set outside",
    ]
    assert plan_view._drift(planned(stack())) == []
    (drift,) = plan.drift
    assert drift.as_dict()["cause"] == "ALTER ROLE risk_api PASSWORD"


def server_of(found: Running, **more: Any) -> Server:
    (process,) = found.of("postgres")
    return Server(outside=outside(process, RECORDED), **more)


def test_status_names_what_was_set_outside_before_what_follows_from_it() -> None:
    found = server_of(stack(**{CHANGED: "another", "roles.risk_api.work_mem": "1"}))
    verdict = bottleneck(Sample((), (), found))
    assert verdict.where == "roles"
    assert verdict.line == (
        "set outside: roles.risk_api.password is another, compiled is issued: ALTER ROLE "
        "risk_api PASSWORD (and 1 more)."
    )
    assert verdict.command == "make apply"
    assert bottleneck(Sample((), (), server_of(stack()))).where == "none"


def test_without_a_record_status_does_not_judge_roles() -> None:
    (process,) = stack(**{CHANGED: "another"}).of("postgres")
    assert outside(process, None) is None
    restart = replace(process, pending=frozenset({CHANGED}))
    assert outside(restart, RECORDED) == ()


def test_status_names_the_refused_operator_and_the_way_back() -> None:
    verdict = bottleneck(Sample((), (), Server(error=REFUSED)))
    assert (verdict.where, verdict.command) == ("roles", "make apply")
