"""What an env file comes to, and what it would change of what is in force."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.config import extra, sizing
from infra.config import host as host_rules
from infra.config.build import ENV_FILE_NAME, ENV_FILE_SHOWN, Checked, check, check_secrets
from infra.config.faults import Fault
from infra.config.host import Host
from infra.config.settings import Values
from infra.config.sizing import Derived
from infra.ops import changes, effect, in_force, ordering
from infra.ops import settings as ops_files
from infra.ops.changes import Baseline, SettingChange
from infra.ops.in_force import InForce
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
        return sizing.derived_settings(self.values)

    @property
    def running(self) -> bool:
        """Tell whether at least one process was found."""
        return self.found is not None and not self.found.nothing_runs

    @property
    def differences(self) -> tuple[SettingChange, ...] | None:
        """Every setting that is not in force as the file says."""
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
    out: Path | None = None,
) -> Plan:
    """Judge `env_file` and compare it with what is in force.

    `compiled` is the record of the last compile; `settings` is ops.json, by which the
    processes are found: without it, or while nothing runs, the record alone counts.
    With `secrets` the certificates there are judged too, and with `out`, where the compiled
    files are, whether secrets were lost; with `host` what it can carry. Faults call the file
    `shown`.
    """
    if not shown:
        shown = ENV_FILE_SHOWN if env_file.name in _ENV_FILE_NAMES else str(env_file)
    checked = check(env_file, shown=shown)
    if secrets is not None:
        now, has_data = datetime.datetime.now(datetime.UTC), host is not None and host.has_data
        checked = check_secrets(checked, secrets, now=now, out=out, has_data=has_data)
    if host is not None:
        checked = Checked(
            checked.values,
            (*checked.faults, *host_rules.faults(checked.values, host, file=shown)),
            (*checked.warnings, *host_rules.warnings(checked.values, host, file=shown)),
        )
    record = None if checked.faults else changes.read_record(compiled)
    found = None if record is None or settings is None else _look(settings, checked.values)
    observed = found.settings(_parameters(record or {}, checked.values)) if found else {}
    before = None if record is None else changes.baseline(record, observed)
    recorded = None if record is None else changes.baseline(record, {}).values
    return Plan(shown, checked.values, checked.faults, checked.warnings, found, before, recorded)


def _parameters(record: Mapping[str, object], values: Values) -> dict[str, set[str]]:
    """Return the parameters of extra files, with the values compiled last and asked for."""
    recorded = {name: str(value) for name, value in record.items() if extra.find(name)}
    names = {*recorded, *extra.given(values)}
    return {
        name: {text for text in (recorded.get(name), values[name]) if isinstance(text, str)}
        for name in names
    }


def _look(settings: Path, values: Values) -> InForce | None:
    """Ask the processes; None where the operator's files are not, so nobody can be asked."""
    try:
        return in_force.look(ops_files.read(settings)).expecting(values)
    except FileNotFoundError:
        return None
