"""What `plan` prints: tables and lines for people, or one JSON document."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich import box
from rich.console import Console
from rich.table import Table

from infra.config import documents, extra, sizing
from infra.config.faults import Fault
from infra.config.settings import Values
from infra.config.sizing import Part
from infra.ops import exits, ordering
from infra.ops.in_force import TIERS
from infra.ops.outcome import print_document
from infra.ops.plan import Plan


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
        print_plan(plan, Console(), full=full)
    return exits.BAD_INPUT if plan.faults else exits.OK


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
    restart, recreate = ordering.tiers_to_restart(part.waiting if part else ())
    found = plan.found.processes if plan.found else ()
    return {
        "processes": [{"tier": p.tier, "name": p.name, "error": p.error} for p in found],
        "unreachable": plan.found.faults() if plan.found and plan.running else [],
        "differences": None if differences is None else [one.as_dict() for one in differences],
        "held": list(part.held) if part else [],
        "restart": list(restart),
        "recreate": list(recreate),
        "effect": [row.as_dict() for row in plan.effect],
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
    """Print a plan without faults: the difference to what is in force, warnings last.

    Where nothing is in force the tables of the whole budget stand in for it; `full` prints
    them in any case.
    """
    say = partial(console.print, markup=False, soft_wrap=True, highlight=False)
    for line in _compared_with(plan):
        say(line)
    if full or not plan.running:
        for table in _whole_budget(plan):
            console.print(table)
    if plan.differences is not None:
        print_differences(plan, console)
    for warning in plan.warnings:
        say(f"warning: {warning}")
    say(f"{plan.file}: the budget holds")


def print_differences(plan: Plan, console: Console) -> None:
    """Print what changes, what it does to the budget, and what it costs."""
    say = partial(console.print, markup=False, soft_wrap=True, highlight=False)
    if plan.differences:
        console.print(_differences(plan))
        if table := _effect(plan):
            console.print(table)
    else:
        say(
            "No setting has changed."
            if plan.running
            else "No setting has changed since the last compile."
        )
    for line in _costs(plan):
        say(line)
    for one in plan.drift:
        say(f"differs from the last compile: {one}")


def _compared_with(plan: Plan) -> list[str]:
    if plan.before is None:
        return ["Nothing was compiled yet: this is what the file comes to."]
    if plan.found is None or not plan.running:
        return ["Nothing runs: this is what the file comes to, compared with the last compile."]
    counts = (f"{tier} {len(plan.found.of(tier))}" for tier in TIERS)
    lines = [f"Compared with what is in force now on the processes: {', '.join(counts)}"]
    return lines + [f"not compared: {fault}" for fault in plan.found.faults()]


def _costs(plan: Plan) -> list[str]:
    part = plan.steps_of_change
    if part is None or not plan.differences:
        return []
    restart, recreate = ordering.tiers_to_restart(part.waiting)
    lines = [
        f"derived: {one.setting.name} = {plan.values.derived[one.setting.name]}"
        for one in plan.differences
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
            f"{', '.join(part.held)}"
        )
    return lines + (costs or ["All of it is live: make apply"])


def _whole_budget(plan: Plan) -> list[Table]:
    return [
        _settings(plan.values),
        _server_connections(plan.values),
        _client_connections(plan.values),
        _memory(plan.values),
        _disk(plan.values),
        _derived(plan),
    ]


def _settings(values: Values) -> Table:
    """Every setting as the env file would have it, and where its value comes from."""
    table = _table("Settings", "Setting", "From")
    for setting in extra.concerned(values):
        value = values[setting.name]
        formula = values.derived.get(setting.name)
        usual = value == setting.default
        file = setting.name.partition(":")[0] if ":" in setting.name else "stack.env"
        origin = formula or ("default" if usual else f"{file}; default {setting.default}")
        style = "" if usual or formula else "bold"
        table.add_row(f"{setting.name}={value}", origin, style=style)
    return table


def _server_connections(values: Values) -> Table:
    table = _parts("PostgreSQL sessions", ("From", "Sessions"), sizing.session_parts(values))
    limit = values.integer("POSTGRES_MAX_CONNECTIONS")
    table.add_row(f"left of {limit}", str(sizing.spare(values)), "POSTGRES_MAX_CONNECTIONS")
    return table


def _client_connections(values: Values) -> Table:
    title = "Client connections of one PgBouncer, worst case"
    table = _parts(title, ("From", "Connections"), sizing.client_parts(values))
    limit = values.integer("PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    left = limit - sizing.client_demand(values)
    table.add_row(f"left of {limit}", str(left), "PGBOUNCER_MAX_CLIENT_CONNECTIONS")
    files = values.integer("PGBOUNCER_OPEN_FILES")
    spare = files - sizing.file_demand(values)
    table.add_row(f"open files left of {files}", str(spare), "PGBOUNCER_OPEN_FILES")
    return table


def _memory(values: Values) -> Table:
    parts = sizing.memory_parts(values)
    table = _parts("PostgreSQL memory, worst case", ("Part", "MB"), parts, shown=_megabytes)
    left = sizing.memory_kb(values) - sizing.memory_demand_kb(values)
    limit = values.integer("POSTGRES_MEMORY_MB")
    table.add_row(f"left of {limit}", _megabytes(left), "POSTGRES_MEMORY_MB")
    return table


def _disk(values: Values) -> Table:
    table = _parts("Data volume, worst case", ("Part", "MB"), sizing.disk_parts(values))
    limit = values.integer("POSTGRES_DISK_MB")
    table.add_row("data", str(sizing.data_mb(values)), f"the rest of POSTGRES_DISK_MB={limit}")
    return table


def _parts(
    title: str,
    columns: tuple[str, str],
    parts: tuple[Part, ...],
    *,
    shown: Callable[[int], str] = str,
) -> Table:
    """Return a table of the parts of a sum, ready for what is left of the limit."""
    table = _table(title, *columns, "How")
    for part in parts:
        table.add_row(part.name, shown(part.size), part.how)
    table.add_section()
    return table


def _derived(plan: Plan) -> Table:
    table = _table("Derived PostgreSQL settings", "Setting", "From")
    for item in plan.derived:
        table.add_row(f"{item.name}={item.value}", item.formula)
    return table


def _differences(plan: Plan) -> Table:
    title = "Changes" if plan.running else "Changed since the last compile"
    table = _table(title, "Setting", "Was", "Now", "Change")
    for item in plan.differences or ():
        setting = item.setting
        style = "" if item.live else "bold"
        row = (setting.name, item.was, item.new, item.cost)
        table.add_row(*map(str, row), style=style)
    return table


def _effect(plan: Plan) -> Table | None:
    """Return the numbers of the budget that change."""
    changed = [row for row in plan.effect if row.changed and row.before is not None]
    if not changed:
        return None
    table = _table("Effect on the budget", "Part", "Number", "Before", "After", "By", "Unit")
    for row in changed:
        by = row.after - (row.before or 0)
        numbers = (f"{row.before:g}", f"{row.after:g}", f"{by:+g}")
        table.add_row(row.part, row.name, *numbers, row.unit)
    return table


def _table(title: str, *columns: str) -> Table:
    # Without lines between columns every name fits into 80 of them.
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        # A name that is broken in two cannot be read, copied or searched for.
        table.add_column(column, overflow="fold", no_wrap=column == "Setting")
    return table


def _megabytes(size_kb: int) -> str:
    return f"{size_kb / 1024:.1f}"
