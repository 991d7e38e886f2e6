"""What every process has in force now, read from the processes themselves."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from infra.config import catalogue, extra, names
from infra.config.settings import Value, Values
from infra.ops import app_control, facts, pgbouncer_admin
from infra.ops.app_control import Control
from infra.ops.facts import Facts
from infra.ops.pgbouncer_admin import PgBouncerAdmin
from infra.ops.postgres_admin import PostgresAdmin
from infra.ops.setting_sources import SOURCES, of_parameter, read, read_parameter
from infra.ops.settings import OpsSettings
from infra.ops.targets import Target, everywhere, first_line, resolve

# A role cannot change its own limit, and the operator's is set by roles.sql.
_OWN_LIMIT: Final = f"roles.{names.OPERATOR}.connection_limit"
TIERS: Final = ("postgres", "pgbouncer", "api", "worker")
# How many processes a tier has is in force when they run, whatever was compiled.
_COUNTS: Final = {"pgbouncer": "PGBOUNCER_REPLICAS", "worker": "WORKER_REPLICAS"}


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its facts, or why there are none; `pending` are those only a restart changes."""

    tier: str
    name: str
    found: Facts
    pending: frozenset[str] = frozenset()
    error: str = ""


@dataclass(frozen=True, slots=True)
class InForce:
    """Every process that was asked, and how many of each tier there should be."""

    processes: tuple[Process, ...]
    wanted: dict[str, int]

    def of(self, tier: str) -> tuple[Process, ...]:
        """Return the processes of a tier that answered."""
        return tuple(one for one in self.processes if one.tier == tier and not one.error)

    @property
    def nothing_runs(self) -> bool:
        """Tell whether not a single process has an address."""
        return not self.processes

    def expecting(self, values: Values) -> "InForce":
        """Return the same, where a tier that was made smaller on purpose is complete."""
        asked = {tier: values.integer(setting) for tier, setting in _COUNTS.items()}
        fewer = {tier: min(count, asked.get(tier, count)) for tier, count in self.wanted.items()}
        return InForce(self.processes, fewer)

    def faults(self) -> list[str]:
        """Return one line for each process that does not answer or is not there."""
        silent = [f"{one.name}: {one.error}" for one in self.processes if one.error]
        return silent + [self._missing(tier, wanted) for tier, wanted in self.missing().items()]

    def missing(self) -> dict[str, int]:
        """Return how many processes each tier should have that has fewer."""
        return {
            tier: self.wanted[tier]
            for tier in TIERS
            if len(self._names(tier)) < self.wanted.get(tier, 0)
        }

    def settings(
        self, parameters: Mapping[str, set[str]] = MappingProxyType({})
    ) -> dict[str, tuple[Value, ...]]:
        """Return the values in force of the settings that can be read; several when some differ.

        `parameters` are those of extra files to look for, each with the values that are expected.
        """
        known = catalogue.by_name()
        found: dict[str, tuple[Value, ...]] = {
            setting: (count,)
            for tier, setting in _COUNTS.items()
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
        for name, texts in parameters.items():
            source = of_parameter(name)
            facts_found = (one.found.get(source.name) for one in self.of(source.tier))
            values = [read_parameter(name, one, texts) for one in facts_found if one is not None]
            if values:
                found[name] = tuple(dict.fromkeys(values))
        return found

    def _names(self, tier: str) -> list[str]:
        return [one.name for one in self.processes if one.tier == tier]

    def _missing(self, tier: str, wanted: int) -> str:
        there = self._names(tier)
        found = f"; there: {', '.join(there)}" if there else ""
        return f"{tier}: {len(there)} of {wanted} processes have an address{found}"


def look(settings: OpsSettings) -> InForce:
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
    return InForce(processes, wanted | control.processes)


def _postgres(settings: OpsSettings) -> Iterable[Process]:
    target = settings.values["postgres"]
    for address in resolve(target["host"], target["port"]):
        try:
            with PostgresAdmin(settings) as admin:
                rows = admin.settings()
                found = facts.of_postgres(rows, admin.roles(list(names.LOGIN_ROLES)))
        except Exception as error:
            yield Process("postgres", str(address), {}, error=first_line(error))
        else:
            fixed = [one.name for one in rows.values() if one.context in ("postmaster", "internal")]
            pending = frozenset((*(f"settings.{name}" for name in fixed), _OWN_LIMIT))
            yield Process("postgres", str(address), found, pending)


def _pgbouncers(settings: OpsSettings) -> Iterable[Process]:
    def ask(target: Target) -> Facts:
        with PgBouncerAdmin(target, settings) as admin:
            return facts.of_pgbouncer(admin.config(), admin.databases())

    known = extra.parameters(extra.PGBOUNCER_FILE).values()
    fixed = frozenset(f"config.{one.name}" for one in known if one.restart)
    for answer in everywhere(pgbouncer_admin.replicas(settings), ask):
        name = str(answer.target)
        yield Process("pgbouncer", name, answer.value or {}, fixed, answer.error)


def _apps(control: Control) -> Iterable[Process]:
    for answer in everywhere(control.targets(), control.state):
        tier, name = control.service_of(answer.target), str(answer.target)
        if answer.value is None:
            yield Process(tier, name, {}, error=answer.error)
        else:
            found = facts.of_app(answer.value.settings)
            pending = frozenset(answer.value.needs_restart)
            yield Process(tier, name, found, pending)
