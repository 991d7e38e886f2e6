"""What an env file comes to, what it would change of the running configuration, in which steps.

The steps keep every tier within its limit at any moment. First a configuration with the smaller of
old and new for every sized resource, from the app downwards: each tier has really let go before
the tier that carries it gets smaller. Then the final one from PostgreSQL upwards: each tier is
larger before anything above it grows.
"""

import datetime
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.config import catalogue, clients, extra, rules
from infra.config import host as host_rules
from infra.config.build import ENV_FILE_NAME, ENV_FILE_SHOWN, Checked, check, check_secrets
from infra.config.derived import Derived, derived_settings
from infra.config.faults import Fault
from infra.config.host import Host
from infra.config.names import SERVICES
from infra.config.settings import SERVER_DEFAULT, Change, Value, Values
from infra.ops import running
from infra.ops.clients.processes import OpsSettings, OtherVersionError
from infra.ops.running import COUNTS, Deviation, Running, SettingChange, read_record

# A candidate is what the host's scripts are about to make of it.
_ENV_FILE_NAMES = (ENV_FILE_NAME, f"{ENV_FILE_NAME}.candidate")
_SIZES_OF_CLIENT: Final = (
    "POOL_SIZE",
    "RESERVE_POOL_SIZE",
    "MIN_POOL_SIZE",
    "MAX_CLIENT_CONNECTIONS",
    "OWNER_CONNECTIONS",
)
# Whatever opens connections, and the limits of who accepts them; see also `sized`.
SIZED: Final = (
    *(name for one in SERVICES for name in (one.pool_min_size, one.pool_max_size)),
    *(name for one in SERVICES for name in one.sizes),
    "PGBOUNCER_MAX_CLIENT_CONNECTIONS",
    "POSTGRES_OWNER_CONNECTIONS",
    "POSTGRES_MONITOR_CONNECTIONS",
)
# A restart of the api and worker is a restart of each.
_TIERS_OF: Final = {
    Change.RESTART_POSTGRES: ("postgres",),
    Change.RESTART_PGBOUNCER: ("pgbouncer",),
    Change.RESTART_API: ("api",),
    Change.RESTART_WORKER: ("worker",),
    Change.RESTART_APP: ("api", "worker"),
    Change.MIGRATE: ("migrate",),
}


@dataclass(frozen=True, slots=True)
class LivePart:
    """What can be done without a restart, and what has to wait for one.

    `values` holds every setting; `waiting` are changed settings that need a restart, `held` those
    that could change live but would break the budget before that restart.
    """

    values: Values
    waiting: tuple[str, ...]
    held: tuple[str, ...]


def live_part(before: Values, wanted: Values) -> LivePart:
    """Return the largest part of the change that holds the budget without any restart."""
    concerned = extra.concerned(before, wanted)
    live = [setting.name for setting in concerned if setting.change is Change.LIVE]
    waiting = _differing(before, wanted, (setting.name for setting in concerned), but=live)
    for names, sizes in ((live, wanted), (live, smaller(before, wanted)), ((), before)):
        values = _with(before, {name: wanted[name] for name in names})
        values = _with(values, {name: sizes[name] for name in sized(before, wanted)})
        if not rules.faults(values, file=""):
            break
    return LivePart(values, waiting, _differing(values, wanted, live))


def sized(*values: Values) -> tuple[str, ...]:
    """Return the settings of all that opens connections, and of the limits of who accepts them."""
    of_clients = (
        clients.key(one, name) for one in clients.given(*values) for name in _SIZES_OF_CLIENT
    )
    return (*SIZED, *of_clients)


def smaller(before: Values, wanted: Values) -> Values:
    """Return the running values with the smaller of old and new for every sized resource.

    A client that only one of them has is in neither.
    """
    sizes: dict[str, Value] = {
        name: before[name] if _size(before, name) <= _size(wanted, name) else wanted[name]
        for name in sized(before, wanted)
    }
    return _with(before, sizes)


def _size(values: Values, name: str) -> int:
    """Return a size; zero of a client that is not there."""
    value = values[name]
    return 0 if value == SERVER_DEFAULT else values.integer(name)


@dataclass(frozen=True, slots=True)
class Step:
    """One configuration and the direction in which the tiers take it."""

    values: Values
    downwards: bool


def steps(before: Values, wanted: Values) -> tuple[Step, ...]:
    """Return the configurations to go through, one or two."""
    pairs = [(_size(before, name), _size(wanted, name)) for name in sized(before, wanted)]
    shrinks, grows = any(old > new for old, new in pairs), any(old < new for old, new in pairs)
    if shrinks and grows:
        return Step(smaller(before, wanted), downwards=True), Step(wanted, downwards=False)
    return (Step(wanted, downwards=shrinks),)


def tiers_to_restart(
    names: Iterable[str], tiers: Iterable[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the services to restart and those to recreate for these settings, each in order.

    `tiers` are those of which a process has something else than what was compiled.
    """
    known = catalogue.by_name()
    settings = [one for name in names if (one := known.get(name) or extra.setting_of(name))]
    recreate = {str(setting.tier) for setting in settings if setting.change is Change.RECREATE}
    restart = {tier for setting in settings for tier in _TIERS_OF.get(setting.change, ())}
    restart.update(tiers)
    # Another number of replicas makes no other containers of those that stay.
    renewed = {
        str(setting.tier)
        for setting in settings
        if setting.change is Change.RECREATE and setting.name not in COUNTS.values()
    }
    order = (
        *("postgres", "migrate", "backup", "pgbouncer", "gateway", "api", "worker"),
        "observability",
    )
    return (
        tuple(tier for tier in order if tier in restart - renewed),
        tuple(tier for tier in order if tier in recreate),
    )


def _differing(
    one: Values, other: Values, names: Iterable[str], *, but: Iterable[str] = ()
) -> tuple[str, ...]:
    left_out = set(but)
    return tuple(name for name in names if name not in left_out and one[name] != other[name])


def _with(values: Values, changed: dict[str, Value]) -> Values:
    """Return the values with others; a client without all of its settings is none."""
    return Values(clients.whole(Values(values.as_dict() | changed).as_dict()))


@dataclass(frozen=True, slots=True)
class Plan:
    """The judgement of one env file against the running configuration.

    `before` is that configuration: without processes where they were not asked, None, as are
    `differences`, where nothing was compiled yet or the file has faults.
    """

    file: str
    values: Values
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    before: Running | None

    @property
    def derived(self) -> tuple[Derived, ...]:
        """The derived server settings; only of a plan without faults."""
        return derived_settings(self.values)

    @property
    def running(self) -> bool:
        """Return True if at least one process was found."""
        return self.before is not None and not self.before.nothing_runs

    @property
    def differences(self) -> tuple[SettingChange, ...] | None:
        """Every setting that is not running as the file says."""
        return None if self.before is None else self.before.changes(self.values)

    @property
    def drift(self) -> tuple[Deviation, ...]:
        """What processes run with that is not as it was compiled last."""
        return () if self.before is None else self.before.deviations(self.before.compiled)

    @property
    def steps_of_change(self) -> LivePart | None:
        """What is done live, what waits for a restart, and what is held back until then."""
        if self.before is None:
            return None
        return live_part(self.before.values, self.values)


def make(
    env_file: Path,
    compiled: Path,
    settings: Path | None = None,
    secrets: Path | None = None,
    host: Host | None = None,
    shown: str = "",
    out: Path | None = None,
) -> Plan:
    """Judge `env_file` and compare it with the running configuration.

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
    recorded = None if checked.faults else read_record(compiled)
    before = None if recorded is None else _look(settings, recorded).expecting(checked.values)
    return Plan(shown, checked.values, checked.faults, checked.warnings, before)


def _look(settings: Path | None, recorded: Mapping[str, Value]) -> Running:
    """Ask the processes; nobody can be asked without `settings`, or with another version's."""
    if settings is not None:
        with suppress(FileNotFoundError, OtherVersionError):
            return running.look(OpsSettings.read(settings), recorded)
    return Running((), recorded=recorded)
