"""What an env file comes to: knobs, connections, derived settings, faults and warnings."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.compiler import catalogue, connections, derive, ops_settings
from infra.compiler.build import ENV_FILE_NAME, ENV_FILE_SHOWN, check
from infra.compiler.derive import Derived
from infra.compiler.faults import Fault
from infra.compiler.knobs import Value, Values
from infra.ops import plan_tables

EXIT_REFUSED = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """One knob that is not as it was compiled last, and what the change costs."""

    name: str
    was: object
    now: Value
    change: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The judgement of one env file; `differences` is None without an earlier compile."""

    file: str
    values: Values
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    differences: tuple[Difference, ...] | None

    @property
    def derived(self) -> tuple[Derived, ...]:
        """The derived server settings; only of a plan without faults."""
        return derive.derived_settings(self.values)


def make(env_file: Path, compiled: Path) -> Plan:
    """Judge `env_file` and compare it with the record of the last compile."""
    shown = ENV_FILE_SHOWN if env_file.name == ENV_FILE_NAME else str(env_file)
    checked = check(env_file, shown=shown)
    earlier = _earlier(compiled)
    differences = None if earlier is None else _differences(checked.values, earlier)
    return Plan(shown, checked.values, checked.faults, checked.warnings, differences)


def show(plan: Plan, *, as_json: bool) -> int:
    """Print the plan, faults to stderr; return the exit code, 2 when there are faults."""
    if as_json:
        print(json.dumps(as_dict(plan), indent=2))  # noqa: T201  # JSON must not be wrapped
    elif not plan.faults:
        plan_tables.print_plan(plan, Console())
    if plan.faults and not as_json:
        _print_faults(plan, Console(stderr=True, soft_wrap=True, highlight=False))
    return EXIT_REFUSED if plan.faults else 0


def as_dict(plan: Plan) -> dict[str, object]:
    """Return the plan as JSON holds it; without the arithmetic when there are faults."""
    judged: dict[str, object] = {
        "file": plan.file,
        "ok": not plan.faults,
        "faults": [_fault(fault) for fault in plan.faults],
        "warnings": [_fault(warning) for warning in plan.warnings],
    }
    return judged if plan.faults else judged | _sums(plan)


def _sums(plan: Plan) -> dict[str, object]:
    return {
        "knobs": {name: ops_settings.plain(v) for name, v in plan.values.as_dict().items()},
        "budget": ops_settings.budget(plan.values),
        "role_connection_limits": connections.role_limits(plan.values),
        "derived": [
            {"name": item.name, "value": item.value, "formula": item.formula}
            for item in plan.derived
        ],
        "differences": plan.differences
        and [
            {"knob": d.name, "was": d.was, "now": ops_settings.plain(d.now), "change": d.change}
            for d in plan.differences
        ],
    }


def _fault(fault: Fault) -> dict[str, object]:
    return {"file": fault.file, "line": fault.line, "message": fault.message}


def _print_faults(plan: Plan, console: Console) -> None:
    for fault in plan.faults:
        console.print(str(fault), markup=False)
    console.print(f"{len(plan.faults)} fault(s); this file would not be compiled", markup=False)


def _earlier(compiled: Path) -> dict[str, object] | None:
    """Return the knobs of the last compile; None when there was none yet."""
    try:
        knobs: dict[str, object] = json.loads(compiled.read_bytes())["knobs"]
    except FileNotFoundError:
        return None
    return knobs


def _differences(values: Values, earlier: dict[str, object]) -> tuple[Difference, ...]:
    knobs = catalogue.by_name()
    return tuple(
        Difference(name, earlier.get(name), value, knobs[name].change.value)
        for name, value in values.as_dict().items()
        if earlier.get(name) != ops_settings.plain(value)
    )
