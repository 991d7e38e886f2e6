"""In which steps a change is made, so that no tier's limit is exceeded at any moment.

First a configuration with the smaller of old and new for every sized resource, from the app
downwards: each tier has really let go before the tier that carries it gets smaller. Then the
final one from PostgreSQL upwards: each tier is larger before anything above it grows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from infra.config import catalogue, extra, rules
from infra.config.settings import Change, Value, Values

# Whatever opens connections, and the limits of who accepts them.
SIZED: Final = (
    "API_POOL_MIN_SIZE",
    "API_POOL_MAX_SIZE",
    "WORKER_POOL_MIN_SIZE",
    "WORKER_POOL_MAX_SIZE",
    "PGBOUNCER_INTERACTIVE_POOL_SIZE",
    "PGBOUNCER_INTERACTIVE_RESERVE_SIZE",
    "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE",
    "PGBOUNCER_BATCH_POOL_SIZE",
    "PGBOUNCER_BATCH_RESERVE_SIZE",
    "PGBOUNCER_BATCH_MIN_POOL_SIZE",
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
        values = _with(values, {name: sizes[name] for name in SIZED})
        if not rules.faults(values, file=""):
            break
    return LivePart(values, waiting, _differing(values, wanted, live))


def smaller(before: Values, wanted: Values) -> Values:
    """Return what is in force with the smaller of old and new for every sized resource."""
    sizes: dict[str, Value] = {
        name: min(before.integer(name), wanted.integer(name)) for name in SIZED
    }
    return _with(before, sizes)


@dataclass(frozen=True, slots=True)
class Step:
    """One configuration and the direction in which the tiers take it."""

    values: Values
    downwards: bool


def steps(before: Values, wanted: Values) -> tuple[Step, ...]:
    """Return the configurations to go through, one or two."""
    shrinks = any(before.integer(name) > wanted.integer(name) for name in SIZED)
    grows = any(before.integer(name) < wanted.integer(name) for name in SIZED)
    if shrinks and grows:
        return Step(smaller(before, wanted), downwards=True), Step(wanted, downwards=False)
    return (Step(wanted, downwards=shrinks),)


def tiers_to_restart(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the services to restart and those to recreate for these settings, each in order."""
    known = catalogue.by_name()
    settings = [one for name in names if (one := known.get(name) or extra.find(name))]
    recreate = {str(setting.tier) for setting in settings if setting.change is Change.RECREATE}
    restart = {tier for setting in settings for tier in _TIERS_OF.get(setting.change, ())}
    order = ("postgres", "migrate", "pgbouncer", "api", "worker")
    return (
        tuple(tier for tier in order if tier in restart - recreate),
        tuple(tier for tier in order if tier in recreate),
    )


def _differing(
    one: Values, other: Values, names: Iterable[str], *, but: Iterable[str] = ()
) -> tuple[str, ...]:
    left_out = set(but)
    return tuple(name for name in names if name not in left_out and one[name] != other[name])


def _with(values: Values, changed: dict[str, Value]) -> Values:
    return Values(values.as_dict() | changed)
