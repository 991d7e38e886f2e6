"""What an env file comes to, and what it would change of what is in force."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.compiler import connections, derive, ops_settings
from infra.compiler import host as host_rules
from infra.compiler.build import ENV_FILE_NAME, ENV_FILE_SHOWN, Checked, check, check_secrets
from infra.compiler.derive import Derived
from infra.compiler.faults import Fault
from infra.compiler.host import Host
from infra.compiler.knobs import Values
from infra.ops import changes, effect, exits, in_force, ordering, plan_tables
from infra.ops import settings as ops_files
from infra.ops.changes import Baseline, KnobChange
from infra.ops.in_force import InForce
from infra.ops.outcome import print_document
from infra.ops.readback import Deviation, deviations

# A candidate is what the host's scripts are about to make of it.
_ENV_FILE_NAMES = (ENV_FILE_NAME, f"{ENV_FILE_NAME}.candidate")


@dataclass(frozen=True, slots=True)
class Plan:
    """The judgement of one env file against what is in force.

    `found` is None where the processes were not asked, `before` and `differences` where
    nothing was compiled yet or the file has faults.
    """

    file: str
    values: Values
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    found: InForce | None
    before: Baseline | None
    recorded: Values | None

    @property
    def derived(self) -> tuple[Derived, ...]:
        """The derived server settings; only of a plan without faults."""
        return derive.derived_settings(self.values)

    @property
    def running(self) -> bool:
        """Tell whether at least one process was found."""
        return self.found is not None and not self.found.nothing_runs

    @property
    def differences(self) -> tuple[KnobChange, ...] | None:
        """Every knob that is not in force as the file says."""
        return None if self.before is None else changes.changes(self.before, self.values)

    @property
    def effect(self) -> tuple[effect.Row, ...]:
        """The numbers of the budget, before and after."""
        return effect.rows(self.before.values if self.before else None, self.values)

    @property
    def drift(self) -> tuple[Deviation, ...]:
        """What processes have in force that is not as it was compiled last."""
        if self.found is None or self.recorded is None:
            return ()
        return deviations(self.recorded, self.found)

    @property
    def steps_of_change(self) -> ordering.LivePart | None:
        """What is done live, what waits for a restart, and what is held back until then."""
        if self.before is None:
            return None
        return ordering.live_part(self.before.values, self.values)


def make(
    env_file: Path,
    compiled: Path,
    settings: Path | None = None,
    secrets: Path | None = None,
    host: Host | None = None,
    shown: str = "",
) -> Plan:
    """Judge `env_file` and compare it with what is in force.

    `compiled` is the record of the last compile; `settings` is ops.json, by which the
    processes are found: without it, or while nothing runs, the record alone counts.
    With `secrets` the certificates there are judged too, with `host` what it can carry. Faults
    call the file `shown`.
    """
    if not shown:
        shown = ENV_FILE_SHOWN if env_file.name in _ENV_FILE_NAMES else str(env_file)
    checked = check(env_file, shown=shown)
    if secrets is not None:
        checked = check_secrets(checked, secrets, now=datetime.datetime.now(datetime.UTC))
    if host is not None:
        checked = Checked(
            checked.values,
            (*checked.faults, *host_rules.faults(checked.values, host, file=shown)),
            (*checked.warnings, *host_rules.warnings(checked.values, host, file=shown)),
        )
    record = None if checked.faults else changes.read_record(compiled)
    found = None if record is None or settings is None else _look(settings, checked.values)
    observed = found.knobs() if found else {}
    before = None if record is None else changes.baseline(record, observed)
    recorded = None if record is None else changes.baseline(record, {}).values
    return Plan(shown, checked.values, checked.faults, checked.warnings, found, before, recorded)


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
        plan_tables.print_plan(plan, Console(), full=full)
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
        "knobs": {name: ops_settings.plain(v) for name, v in plan.values.as_dict().items()},
        "derived_defaults": dict(plan.values.derived),
        "budget": ops_settings.budget(plan.values),
        "role_connection_limits": connections.role_limits(plan.values),
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


def _look(settings: Path, values: Values) -> InForce | None:
    """Ask the processes; None where the operator's files are not, so nobody can be asked."""
    try:
        return in_force.look(ops_files.read(settings)).expecting(values)
    except FileNotFoundError:
        return None
