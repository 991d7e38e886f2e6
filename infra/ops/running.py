"""The running configuration, and how it differs from another: the one model of drift.

It is read from the processes themselves; what no process shows is known from the record of the
last compile. `changes` compares it by setting of the env file, `deviations` by process and by the
process's own setting.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from infra.config import catalogue, clients, documents, extra, names
from infra.config.settings import BadValueError, Change, Setting, Value, Values
from infra.ops import process_settings
from infra.ops.clients import app_control, pgbouncer, pooled
from infra.ops.clients.app_control import Control
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.pooled import Login
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import OpsSettings, Target, everywhere, first_line, resolve
from infra.ops.process_settings import (
    SOURCES,
    WHOLE,
    Facts,
    cause,
    expected,
    of_parameter,
    read,
    read_parameter,
    text,
)

TIERS: Final = ("postgres", "pgbouncer", "api", "worker")
# Those, the one that is there with PGBOUNCER_PORT only, and has nothing to ask it for, and those of
# POSTGRES_INSTANCES=3.
CONTAINERS: Final = (
    *("postgres", *names.INSTANCES, *names.ETCD),
    *("pgbouncer", "gateway", "api", "worker", "backup"),
)
# How many processes a tier has shows when they run, whatever was compiled.
COUNTS: Final = {"pgbouncer": "PGBOUNCER_REPLICAS", "worker": "WORKER_REPLICAS"}


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its facts, or why there are none; `pending` are those only a restart changes.

    `given` are the parameters of extra files that it runs with, also where the line is gone.
    `not_up` is True of a process of the api that is not there while another of its container is.
    """

    tier: str
    name: str
    found: Facts
    pending: frozenset[str] = frozenset()
    error: str = ""
    given: frozenset[str] = frozenset()
    not_up: bool = False

    def hides(self, name: str) -> bool:
        """Return True if the fact cannot be known.

        The reading session has its own value of the setting, or server connections were not
        looked at.
        """
        if self.tier == "postgres":
            return name.startswith("settings.") and name not in self.found
        pool = re.match(r"sessions\.\w+\.", name)
        return pool is not None and not any(one.startswith(pool[0]) for one in self.found)

    def outside(self, wanted: Facts) -> dict[str, None]:
        """Return what should not be there: facts of what is known whole, none of them wanted."""
        names = (name for name in self.found if name.startswith(WHOLE) and name not in wanted)
        return dict.fromkeys(names)


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting of the env file: the running values (several where processes differ), the new."""

    setting: Setting
    old: tuple[Value, ...]
    new: Value

    @property
    def cost(self) -> Change:
        """What the change costs."""
        return self.setting.change

    @property
    def live(self) -> bool:
        """Return True if the change needs no container restarted."""
        return self.cost is Change.LIVE

    @property
    def was(self) -> str:
        """The old value as text; `none` for a setting that the last compile did not know."""
        return " and ".join(str(value) for value in self.old) or "none"

    def as_dict(self) -> dict[str, object]:
        """Return the change as JSON holds it."""
        old = [documents.plain(value) for value in self.old]
        return {
            "setting": self.setting.name,
            "was": old[0] if len(old) == 1 else (old or None),
            "now": documents.plain(self.new),
            "change": self.cost.value,
        }


@dataclass(frozen=True, slots=True)
class Deviation:
    """One setting of one process that is not as compiled."""

    process: str
    setting: str
    expected: str
    found: str
    needs_restart: bool

    def __str__(self) -> str:
        tail = "; it takes a restart" if self.needs_restart else ""
        return f"{self.process}: {self.setting} is {self.found}, compiled is {self.expected}{tail}"

    @property
    def cause(self) -> str:
        """The statement that sets it outside the env file; empty where nobody can but that file."""
        return cause(self.setting)

    def as_dict(self) -> dict[str, object]:
        """Return the deviation as JSON holds it."""
        return {name: getattr(self, name) for name in (*self.__slots__, "cause")}


@dataclass(frozen=True, slots=True)
class Running:
    """Every process that was asked, how many of each tier there should be, the last compile.

    `recorded` are the settings of the last compile, without those that it did not know.
    """

    processes: tuple[Process, ...]
    wanted: Mapping[str, int] = field(default_factory=dict)
    recorded: Mapping[str, Value] = field(default_factory=dict)

    def of(self, tier: str) -> tuple[Process, ...]:
        """Return the processes of a tier that answered."""
        return tuple(one for one in self.processes if one.tier == tier and not one.error)

    @property
    def nothing_runs(self) -> bool:
        """Return True if not a single process has an address."""
        return not self.processes

    def expecting(self, values: Values) -> "Running":
        """Return the same, where a tier that was made smaller on purpose is complete."""
        asked = {tier: values.integer(setting) for tier, setting in COUNTS.items()}
        fewer = {tier: min(count, asked.get(tier, count)) for tier, count in self.wanted.items()}
        return Running(self.processes, fewer, self.recorded)

    def faults(self) -> list[str]:
        """Return one line for each process that does not answer or is not there; see `not_up`."""
        silent = [f"{p.name}: {p.error}" for p in self.processes if p.error and not p.not_up]
        return silent + [self._missing(tier, wanted) for tier, wanted in self.missing().items()]

    def not_up(self) -> list[str]:
        """Return one line for each process that may come up without anyone waiting for it."""
        return [
            f"{one.name}: {one.error}; it is not up, the others of its container go on"
            for one in self.processes
            if one.not_up
        ]

    def silent(self) -> list[str]:
        """Return the lines of both."""
        return self.faults() + self.not_up()

    def missing(self) -> dict[str, int]:
        """Return how many processes each tier should have that has fewer."""
        return {
            tier: self.wanted[tier]
            for tier in TIERS
            if len(self._names(tier)) < self.wanted.get(tier, 0)
        }

    def settings(self, wanted: Values | None = None) -> dict[str, tuple[Value, ...]]:
        """Return the running values of settings that processes show; several when some differ.

        With those of the extra files' parameters that were compiled last, are `wanted`, or run
        although their line is gone.
        """
        known = catalogue.by_name()
        found: dict[str, tuple[Value, ...]] = {
            setting: (count,)
            for tier, setting in COUNTS.items()
            if (count := sum(one.tier == tier for one in self.processes))
        }
        for name, source in SOURCES.items():
            present = [
                one.found[source.name] for one in self.of(source.tier) if source.name in one.found
            ]
            if present:
                found[name] = tuple(
                    dict.fromkeys(read(known[name], source, one) for one in present)
                )
        return found | self._parameters(wanted)

    def _parameters(self, wanted: Values | None) -> dict[str, tuple[Value, ...]]:
        found: dict[str, tuple[Value, ...]] = {}
        asked = {} if wanted is None else {name: wanted[name] for name in extra.given(wanted)}
        running = sorted({name for one in self.processes for name in one.given})
        for name in {**self.recorded, **asked, **dict.fromkeys(running)}:
            if extra.find(name) is None:
                continue
            source = of_parameter(name)
            # As it was written, where that is what the process runs with.
            texts = [str(one[name]) for one in (asked, self.recorded) if name in one]
            present = [
                one.found[source.name] for one in self.of(source.tier) if source.name in one.found
            ]
            if present:
                found[name] = tuple(
                    dict.fromkeys(read_parameter(name, one, texts) for one in present)
                )
        return found

    @property
    def values(self) -> Values:
        """The running values; of a setting that nothing knows, the default.

        Where processes differ, the smaller value counts: it is the one a limit may rest on.
        Parameters of extra files are those that were compiled or given; others have the server's
        default.
        """
        smallest = {name: min(found, key=_order) for name, found in self.settings().items()}
        return Values(self.compiled.as_dict() | smallest)

    @property
    def compiled(self) -> Values:
        """The values of the last compile; of a setting that it did not know, the default."""
        return Values(catalogue.defaults().as_dict() | dict(self.recorded))

    def changes(self, wanted: Values) -> tuple[SettingChange, ...]:
        """Return every setting of which some process runs another value, in the file's order."""
        old: dict[str, tuple[Value, ...]] = {name: (one,) for name, one in self.recorded.items()}
        old |= self.settings(wanted)
        return tuple(
            SettingChange(setting, old.get(setting.name, ()), wanted[setting.name])
            for setting in extra.concerned(self.values, wanted)
            if old.get(setting.name) != (wanted[setting.name],)
        )

    def deviations(self, values: Values) -> tuple[Deviation, ...]:
        """Return what the processes that answered run with that these values do not give."""
        wanted = expected(values)
        return tuple(
            Deviation(process.name, name, text(value), text(have), name in process.pending)
            for tier in TIERS
            for process in self.of(tier)
            for name, value in (wanted[tier] | process.outside(wanted[tier])).items()
            if (have := process.found.get(name)) != value and not process.hides(name)
        )

    def _names(self, tier: str) -> list[str]:
        return [one.name for one in self.processes if one.tier == tier]

    def _missing(self, tier: str, wanted: int) -> str:
        there = self._names(tier)
        found = f"; there: {', '.join(there)}" if there else ""
        return f"{tier}: {len(there)} of {wanted} processes have an address{found}"


def read_record(path: Path) -> dict[str, Value] | None:
    """Return the settings of the last compile that are still known; None when there was none."""
    try:
        settings: Mapping[str, Any] | None = json.loads(path.read_bytes()).get("settings")
    except FileNotFoundError:
        return None
    if settings is None:
        return None
    found: dict[str, Value] = {}
    others = {name: setting for name in settings if (setting := extra.setting_of(name))}
    for name, setting in (catalogue.by_name() | others).items():
        try:
            if settings.get(name) is not None:
                found[name] = setting.parse(str(settings[name]))
        except BadValueError:
            continue
    return clients.whole(found)


def look(settings: OpsSettings, recorded: Mapping[str, Value] | None = None) -> Running:
    """Ask every process of every tier, all at once, each bounded in time."""
    control = app_control.connect(settings)
    wanted = {"postgres": 1, "pgbouncer": settings.values["pgbouncer"]["replicas"]}
    readers: list[Callable[[], Iterable[Process]]] = [
        lambda: _postgres(settings),
        lambda: _pgbouncers(settings),
        lambda: _apps(control),
    ]
    with ThreadPoolExecutor(len(readers)) as pool:
        parts = list(pool.map(lambda reader: tuple(reader()), readers))
    processes = tuple(one for part in parts for one in part)
    # Of the api by container: how many processes that has, they say themselves.
    return Running(processes, wanted | control.replicas, recorded or {})


def _postgres(settings: OpsSettings) -> Iterable[Process]:
    target = settings.values["postgres"]
    for address in resolve(target["host"], target["port"]):
        try:
            with PostgresAdmin(settings) as admin:
                yield server(admin, settings, str(address))
        except Exception as error:
            yield Process("postgres", str(address), {}, error=first_line(error))


def server(admin: PostgresAdmin, settings: OpsSettings, name: str) -> Process:
    """Return the server's facts, its roles among them."""
    rows = admin.settings()
    # Of every role that was compiled: there may be others, which are nobody's business here.
    issued = settings.values["postgres"]["verifier_digests"]
    roles = list(issued)
    found = process_settings.of_postgres(rows, admin.roles(roles)) | process_settings.of_roles(
        admin.password_digests(), issued, admin.other_role_settings(roles)
    )
    fixed = (one.name for one in rows.values() if one.context in ("postmaster", "internal"))
    pending = frozenset(f"settings.{name}" for name in fixed)
    given = process_settings.given_to_postgres(rows)
    return Process("postgres", name, found, pending, given=given)


def with_sessions(
    found: Running, settings: OpsSettings, logins: Iterable[Login]
) -> tuple[Running, list[str]]:
    """Return the same with the settings in force in PgBouncer's server connections.

    `logins` are the pools to look into. Also a line for each that was not seen whole.
    """
    unknown: list[str] = []

    def ask(target: Target) -> Facts:
        facts: Facts = {}
        for login in logins:
            looked = pooled.look(settings, target, login)
            facts |= process_settings.of_sessions(login.entry, looked.settings)
            if looked.missed:
                unknown.append(f"{target}: {looked.missed}")
        return facts

    answers = everywhere(pgbouncer.replicas(settings), ask)
    unknown += [f"{one.target}: {one.error}" for one in answers if one.error]
    sessions = {str(one.target): one.value or {} for one in answers}
    processes = tuple(
        replace(one, found=one.found | sessions.get(one.name, {}))
        if one.tier == "pgbouncer"
        else one
        for one in found.processes
    )
    return replace(found, processes=processes), unknown


def _pgbouncers(settings: OpsSettings) -> Iterable[Process]:
    def ask(target: Target) -> Facts:
        with PgBouncerAdmin(target, settings) as admin:
            return process_settings.of_pgbouncer(admin.config(), admin.databases())

    known = extra.parameters(extra.PGBOUNCER_FILE).values()
    fixed = frozenset(f"config.{one.name}" for one in known if one.restart)
    for answer in everywhere(pgbouncer.replicas(settings), ask):
        name = str(answer.target)
        found = answer.value or {}
        given = process_settings.given_to_pgbouncer(found)
        yield Process("pgbouncer", name, found, fixed, answer.error, given)


def _apps(control: Control) -> Iterable[Process]:
    answers = everywhere(control.targets(), control.state)
    not_up = app_control.not_up(answers)
    for answer in answers:
        tier, name = control.service_of(answer.target), str(answer.target)
        if answer.value is None:
            yield Process(tier, name, {}, error=answer.error, not_up=answer in not_up)
        else:
            found = process_settings.of_app(answer.value.settings)
            pending = frozenset(answer.value.needs_restart)
            yield Process(tier, name, found, pending)


def _order(value: Value) -> tuple[bool, Any]:
    return isinstance(value, str), value
