"""The command `apply`: lock, plan, do it, say what came of it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from infra.ops import exits, lock, plan_view
from infra.ops import plan as planning
from infra.ops import settings as ops_settings
from infra.ops.apply import OLD_SERVES, Apply, ApplyOutcome, Paths
from infra.ops.ending import EndedBySignalError, Ending
from infra.ops.host_step import ask_host
from infra.ops.outcome import print_document
from infra.ops.plan import Plan
from infra.ops.targets import first_line

_THIS_CHANGED_NOTHING: Final = "this command changed nothing"
_NOT_CERTAIN: Final = "how far it came is not certain; run it again: make apply"
# Of what an interrupted run has left: a container that must start, and a process that is about to.
_START_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.5
_NOTHING_COMPILED: Final = "nothing was compiled yet; `make up` compiles and starts"


def run(
    env_file: Path,
    settings: Path,
    paths: Paths,
    *,
    as_json: bool = False,
    prepare_restart: bool = False,
    wait_seconds: float = 0.0,
) -> int:
    """Put the env file in force; print plan, steps and outcome; return the exit code.

    `settings` is ops.json. Whatever is refused leaves files and processes as they are.
    """
    directory = paths.out / "ops"
    console = Console(stderr=as_json, soft_wrap=True, highlight=False)
    try:
        with (
            Ending().signals_raise(),
            lock.operation_lock(directory, "apply", wait_seconds=wait_seconds),
        ):
            plan, outcome = _locked(
                env_file, settings, paths, console, prepare_restart, as_json=as_json
            )
    except lock.LockHeldError as held:
        plan, outcome = None, ApplyOutcome(exits.REFUSED, [str(held)], state=_THIS_CHANGED_NOTHING)
    except EndedBySignalError as signal:
        plan, outcome = None, ApplyOutcome(exits.FAILED, [f"ended by {signal}"], state=OLD_SERVES)
    except OSError as error:
        plan, outcome = None, ApplyOutcome(exits.FAILED, [first_line(error)], state=_NOT_CERTAIN)
    if as_json:
        judged = None if plan is None else plan_view.as_dict(plan)
        print_document(outcome.as_dict() | {"plan": judged})
    else:
        _print(outcome, console)
    if prepare_restart and outcome.exit_code == exits.NEEDS_RESTART:
        _tell_host(outcome, as_json=as_json)
    return outcome.exit_code


def _locked(
    env_file: Path,
    settings: Path,
    paths: Paths,
    console: Console,
    prepare_restart: bool,
    *,
    as_json: bool,
) -> tuple[Plan | None, ApplyOutcome]:
    compiled = paths.out / "ops" / "compiled.json"

    def planned() -> Plan:
        return planning.make(env_file, compiled, settings, paths.secrets, out=paths.out)

    plan = planned()
    if prepare_restart:
        plan = _taken_over(plan, planned, as_json=as_json)
    if plan.faults:
        faults = [str(fault) for fault in plan.faults]
        return plan, ApplyOutcome(exits.BAD_INPUT, faults, state=OLD_SERVES)
    if plan.before is None or plan.found is None:
        return plan, ApplyOutcome(exits.REFUSED, [_NOTHING_COMPILED], state=OLD_SERVES)
    plan_view.print_plan(plan, console)
    say = _printer(console)
    apply = Apply(plan, ops_settings.read(settings), paths, say)
    return plan, apply.run(prepare_restart=prepare_restart)


def _taken_over(plan: Plan, planned: Callable[[], Plan], *, as_json: bool) -> Plan:
    """Return the plan once every process answers, or after a while; have what is missing started.

    An interrupted run can leave less than was compiled, for which the budget was made live.
    """
    if not (plan.found and plan.running and plan.found.faults()):
        return plan
    missing = plan.found.missing()
    if missing:
        ask_host("start", *(f"{one}={count}" for one, count in missing.items()), as_json=as_json)
    until = time.monotonic() + (_START_SECONDS if missing else _ANSWER_SECONDS)
    while plan.found and plan.found.faults() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        plan = planned()
    return plan


def _printer(console: Console) -> Callable[[str], None]:
    def say(line: str) -> None:
        console.print(f"  {line}", markup=False)

    return say


def _print(outcome: ApplyOutcome, console: Console) -> None:
    faults = Console(stderr=True, soft_wrap=True, highlight=False)
    for fault in outcome.faults:
        faults.print(fault, markup=False)
    for deviation in outcome.deviations:
        if deviation.needs_restart:
            console.print(str(deviation), markup=False)
    if outcome.restart:
        console.print(f"needs a restart of: {', '.join(outcome.restart)}", markup=False)
    if outcome.recreate:
        console.print(f"needs new containers of: {', '.join(outcome.recreate)}", markup=False)
    if outcome.held:
        console.print(f"held back until then: {', '.join(outcome.held)}", markup=False)
    if outcome.exit_code == exits.NEEDS_RESTART:
        console.print("make apply RESTART=yes does the rest, with restarts", markup=False)
    (faults if outcome.faults else console).print(outcome.state, markup=False)


def _tell_host(outcome: ApplyOutcome, *, as_json: bool) -> None:
    """Name the containers for the script on the host that has them restarted."""
    if outcome.restart:
        ask_host("restart", *outcome.restart, as_json=as_json)
    if outcome.recreate:
        ask_host("recreate", *outcome.recreate, as_json=as_json)
