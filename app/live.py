"""Settings that change while the process runs: frozen documents, replaced as a whole.

Code that reads a live field keeps the holder and asks it each time it needs the value;
whoever keeps the document keeps the values of that moment.
"""

from typing import Generic, TypeVar

from app.settings import ApiSettings, Section, WorkerSettings

S = TypeVar("S", bound=Section)
Service = TypeVar("Service", ApiSettings, WorkerSettings)

# The fields that the process can take over without a restart. The setting table says the
# same of the settings behind them.
LIVE_FIELDS = frozenset(
    {
        "pool.min_size",
        "pool.max_size",
        "log.level",
        "limits.sites_max",
        "http.event_streams_max",
        "worker.batch_tasks",
        "worker.lease_seconds",
        "worker.poll_interval_seconds",
        "worker.attempts_max",
        "worker.retry_delay_seconds",
        "worker.batch_deadline_seconds",
    }
)


class Live(Generic[S]):
    """The settings in force. Reading and replacing are one assignment each: no lock."""

    def __init__(self, settings: S) -> None:
        self.current = settings

    def replace(self, settings: S) -> None:
        """Put other settings in force, for whoever asks from now on."""
        self.current = settings


def flat(settings: Section) -> dict[str, object]:
    """Return every value under its dotted name, such as `pool.max_size`."""
    document = settings.model_dump(mode="json")
    return dict(_leaves(document, ""))


def differing(in_force: Section, wanted: Section) -> tuple[str, ...]:
    """Return the dotted names of the fields whose values differ, sorted."""
    ours, theirs = flat(in_force), flat(wanted)
    return tuple(sorted(name for name in ours if ours[name] != theirs[name]))


def merged(in_force: S, wanted: S) -> S:
    """Return the settings in force with the live fields of `wanted`.

    Raises:
        ValidationError: the new live values do not go with those that need a restart.

    """
    document = in_force.model_dump(mode="json")
    theirs = flat(wanted)
    for name in LIVE_FIELDS & theirs.keys():
        section, field = name.split(".")
        document[section][field] = theirs[name]
    return type(in_force).model_validate(document)


def _leaves(value: object, prefix: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [
        leaf
        for name, part in value.items()
        for leaf in _leaves(part, f"{prefix}.{name}" if prefix else name)
    ]
