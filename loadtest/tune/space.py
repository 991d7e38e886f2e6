"""What may be tuned: one setting per stage, the sizes to try, and what must follow each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.config import envfile
from infra.config.envfile import assign

Settings = dict[str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """One sweep: the setting, the load it is measured under, and its highest useful size."""

    name: str
    setting: str
    minimum_setting: str
    load: str
    unit: str
    candidates: tuple[int, ...]
    # A smaller size is refused: one thread would wait for another.
    floor_setting: str = ""

    @property
    def reserve_setting(self) -> str:
        """Return the setting of the reserve beside a server pool; empty for the app's pools."""
        stem, _, rest = self.setting.partition("_POOL_SIZE")
        return "" if rest or stem == self.setting else f"{stem}_RESERVE_SIZE"

    def sizes(self, settings: Mapping[str, str]) -> tuple[int, ...]:
        """Return the sizes to try: the candidates, and what the env file has, above the floor."""
        lowest = int(settings.get(self.floor_setting, "1"))
        now = int(settings.get(self.setting, "0"))
        inside = {*self.candidates, now if now <= max(self.candidates) else 0}
        return tuple(sorted(size for size in inside if size >= lowest))


STAGES = (
    Stage(
        "interactive server pool",
        "PGBOUNCER_INTERACTIVE_POOL_SIZE",
        "PGBOUNCER_INTERACTIVE_MIN_POOL_SIZE",
        "interactive",
        "requests/s",
        (1, 2, 4, 6, 8, 12),
    ),
    Stage(
        "api pool",
        "API_POOL_MAX_SIZE",
        "API_POOL_MIN_SIZE",
        "interactive",
        "requests/s",
        (1, 2, 4, 8, 16, 32),
    ),
    Stage(
        "batch server pool",
        "PGBOUNCER_BATCH_POOL_SIZE",
        "PGBOUNCER_BATCH_MIN_POOL_SIZE",
        "batch",
        "tasks/s",
        (1, 2, 4, 6, 8, 12),
    ),
    Stage(
        "worker pool",
        "WORKER_POOL_MAX_SIZE",
        "WORKER_POOL_MIN_SIZE",
        "batch",
        "tasks/s",
        (4, 5, 6, 8),
        "WORKER_THREADS",
    ),
)
WIDE_API_POOL = 16


def with_size(settings: Mapping[str, str], stage: Stage, size: int) -> Settings:
    """Return the settings with a stage's size, and its minimum lowered where it would exceed it."""
    changed = dict(settings)
    changed[stage.setting] = str(size)
    changed[stage.minimum_setting] = str(min(int(settings.get(stage.minimum_setting, "1")), size))
    if stage.reserve_setting in settings:
        # A reserve would help a pool that is too small: the size must be all there is.
        changed[stage.reserve_setting] = "0"
    if stage.setting == "PGBOUNCER_INTERACTIVE_POOL_SIZE":
        # Behind a narrow pool in the app, the size of the next one cannot be seen.
        wide = max(WIDE_API_POOL, int(settings.get("API_POOL_MAX_SIZE", "1")))
        changed["API_POOL_MAX_SIZE"] = str(wide)
    return changed


def effective(text: str) -> Settings:
    """Return every setting of an env file as text, with the values of those it leaves out."""
    values = assign(envfile.parse(text, name="stack.env")).values
    return {name: str(value) for name, value in values.as_dict().items()}
