"""What `plan` prints: tables and lines for people, or one JSON document."""

from __future__ import annotations

from functools import partial

from rich.console import Console
from rich.table import Table

from infra.config import clients, documents, sizing
from infra.config.faults import Fault
from infra.config.settings import Change, Values
from infra.ops import budget_view
from infra.ops.outcome import Exit, print_document
from infra.ops.plan import Plan, tiers_to_restart
from infra.ops.running import TIERS, SettingChange


def show(plan: Plan, *, as_json: bool = False, quiet: bool = False, full: bool = False) -> int:
    """Print the plan, faults to stderr; return the exit code, 2 when there are faults.

    `quiet` leaves out all but faults and warnings, `full` leaves out nothing.
    """
    if as_json:
        print_document(as_dict(plan))
    elif plan.faults:
        _print_lines([*map(str, plan.faults), _count(plan)], error=True)
    elif quiet:
        _print_lines([f"warning: {warning}" for warning in plan.warnings], error=True)
    else:
        print_plan(plan, Console(markup=False), full=full)
    return Exit.BAD_INPUT if plan.faults else Exit.OK


def as_dict(plan: Plan) -> dict[str, object]:
    """Return the plan as JSON holds it; without the arithmetic when there are faults."""
    judged: dict[str, object] = {
        "file": plan.file,
        "ok": not plan.faults,
        "faults": [_fault(fault) for fault in plan.faults],
        "warnings": [_fault(warning) for warning in plan.warnings],
    }
    return judged if plan.faults else judged | _sums(plan) | _against(plan)


def _sums(plan: Plan) -> dict[str, object]:
    return {
        "settings": {name: documents.plain(v) for name, v in plan.values.as_dict().items()},
        "derived_defaults": dict(plan.values.derived),
        "budget": documents.budget(plan.values),
        "role_connection_limits": sizing.role_limits(plan.values),
        "derived": [
            {"name": item.name, "value": item.value, "formula": item.formula}
            for item in plan.derived
        ],
    }


def _against(plan: Plan) -> dict[str, object]:
    differences, part = plan.differences, plan.steps_of_change
    restart, recreate = tiers_to_restart(part.waiting if part else ())
    found = plan.before.processes if plan.before else ()
    return {
        "processes": [{"tier": p.tier, "name": p.name, "error": p.error} for p in found],
        "unreachable": plan.before.silent() if plan.before and plan.running else [],
        "differences": None if differences is None else [one.as_dict() for one in differences],
        "held": list(part.held) if part else [],
        "restart": list(restart),
        "recreate": list(recreate),
        "effect": [row.as_dict() for row in budget_view.effect(_before(plan), plan.values)],
        "drift": [one.as_dict() for one in plan.drift],
    }


def _fault(fault: Fault) -> dict[str, object]:
    return {"file": fault.file, "line": fault.line, "message": fault.message}


def _count(plan: Plan) -> str:
    return f"{len(plan.faults)} fault(s); nothing would be compiled"


def _print_lines(lines: list[str], *, error: bool) -> None:
    console = Console(stderr=error, soft_wrap=True, highlight=False)
    for line in lines:
        console.print(line, markup=False)


def print_plan(plan: Plan, console: Console, *, full: bool = False) -> None:
    """Print a plan without faults: the difference to the running configuration, warnings last.

    Where nothing runs the tables of the whole budget stand in for it; `full` prints
    them in any case.
    """
    say = partial(console.print, markup=False, soft_wrap=True, highlight=False)
    for line in _compared_with(plan):
        say(line)
    if full or not plan.running:
        for table in budget_view.whole(plan.values):
            console.print(table)
    if plan.differences is not None:
        _print_differences(plan, console)
    for warning in plan.warnings:
        say(f"warning: {warning}")
    say(f"{plan.file}: the budget holds")


def _print_differences(plan: Plan, console: Console) -> None:
    """Print what changes, what it does to the budget, and what it costs."""
    say = partial(console.print, markup=False, soft_wrap=True, highlight=False)
    if plan.differences:
        console.print(_differences(plan))
        if table := budget_view.effect_table(_before(plan), plan.values):
            console.print(table)
    else:
        say(
            "No setting has changed."
            if plan.running
            else "No setting has changed since the last compile."
        )
    for line in (*_costs(plan), *_drift(plan)):
        say(line)


def _drift(plan: Plan) -> list[str]:
    lines = [
        f"differs from the last compile: {one}{f'; set outside: {one.cause}' * bool(one.cause)}"
        for one in plan.drift
    ]
    back = any(not one.needs_restart for one in plan.drift)
    return [*lines, "make apply puts back what was set outside"] if back else lines


def _compared_with(plan: Plan) -> list[str]:
    if plan.before is None:
        return ["Nothing was compiled yet: this is what the file comes to."]
    if not plan.running:
        return ["Nothing runs: this is what the file comes to, compared with the last compile."]
    counts = (f"{tier} {len(plan.before.of(tier))}" for tier in TIERS)
    lines = [f"Compared with the running configuration of the processes: {', '.join(counts)}"]
    return lines + [f"not compared: {fault}" for fault in plan.before.silent()]


def _costs(plan: Plan) -> list[str]:
    part = plan.steps_of_change
    if part is None or not plan.differences:
        return []
    restart, recreate = tiers_to_restart(part.waiting)
    lines = [
        f"derived: {one.setting.name} = {plan.values.derived[one.setting.name]}"
        for one in _parted(plan)[0]
        if one.setting.name in plan.values.derived
    ]
    costs = []
    if restart:
        costs.append(f"needs a restart of: {', '.join(restart)}")
    if recreate:
        costs.append(f"needs new containers of: {', '.join(recreate)}")
    if part.held:
        costs.append(
            f"held back until then, because the budget would not hold before: "
            f"{', '.join(clients.shortened(part.held))}"
        )
    return lines + (costs or ["All of it is live: make apply"])


def _parted(plan: Plan) -> tuple[list[SettingChange], dict[str, bool]]:
    """Return the changes of single settings, and the files of clients: True of one that is new."""
    changed = {one.setting.name: one for one in plan.differences or ()}
    names = clients.shortened(changed)
    present = {clients.file(name) for name in clients.given(plan.values)}
    files = {name: name in present for name in names if name not in changed}
    return [changed[name] for name in names if name in changed], files


def _differences(plan: Plan) -> Table:
    title = "Changes" if plan.running else "Changed since the last compile"
    table = budget_view.table(title, "Setting", "Was", "Now", "Change")
    single, whole = _parted(plan)
    for file, now in whole.items():
        table.add_row(file, *(("none", "a client") if now else ("a client", "none")), Change.LIVE)
    for item in single:
        setting = item.setting
        style = "" if item.live else "bold"
        row = (setting.name, item.was, item.new, item.cost)
        table.add_row(*map(str, row), style=style)
    return table


def _before(plan: Plan) -> Values | None:
    return plan.before.values if plan.before else None
