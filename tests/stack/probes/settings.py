"""The settings file that the probed service itself reads."""

import json
import os
from pathlib import Path

from app.pool import ConnectionSettings, PoolSettings


def load() -> tuple[ConnectionSettings, PoolSettings]:
    """Return the settings in the file that SLUICE_SETTINGS names."""
    path = os.environ.get("SLUICE_SETTINGS", "/etc/sluice/api.json")
    groups = json.loads(Path(path).read_text(encoding="utf-8"))
    return ConnectionSettings(**groups["database"]), PoolSettings(**groups["pool"])
