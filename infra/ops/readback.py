"""Is what was compiled in force, on every process? Each that differs is named."""

from dataclasses import dataclass

from infra.config.settings import Values
from infra.ops.facts import Fact, expected
from infra.ops.in_force import TIERS, InForce, Process


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

    def as_dict(self) -> dict[str, object]:
        """Return the deviation as JSON holds it."""
        return {name: getattr(self, name) for name in self.__slots__}


def deviations(compiled: Values, found: InForce) -> tuple[Deviation, ...]:
    """Return every setting that is not in force as compiled, on the processes that answered."""
    wanted = expected(compiled)
    return tuple(
        Deviation(process.name, name, _text(value), _text(have), name in process.pending)
        for tier in TIERS
        for process in found.of(tier)
        for name, value in wanted[tier].items()
        if (have := process.found.get(name)) != value and not _hidden(process, name)
    )


def _hidden(process: Process, name: str) -> bool:
    """Tell whether the reading session has its own value of a setting and hides the server's."""
    return process.tier == "postgres" and name.startswith("settings.") and name not in process.found


def _text(value: Fact | None) -> str:
    if value is None:
        return "not there"
    return value if isinstance(value, str) else f"{value.normalize():f}"
