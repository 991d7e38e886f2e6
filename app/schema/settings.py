"""What migrate.json holds; it is rendered from the env file like the service's own."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from app.settings import DatabaseSettings, LogSettings, Section, SettingsError


class ReferenceSettings(Section):
    """The synthetic reference data: the step of their grid, in degrees."""

    grid_degrees: float = Field(ge=0.1, le=1.0, allow_inf_nan=False)


class MigrateSettings(Section):
    """The whole of migrate.json."""

    service: Literal["migrate"]
    database: DatabaseSettings
    reference: ReferenceSettings
    log: LogSettings


def load_migrate_settings(path: Path) -> MigrateSettings:
    """Read and check the settings file; raise SettingsError that lists every fault."""
    try:
        return MigrateSettings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); it is written by the config service"
        ) from error
    except ValidationError as error:
        raise SettingsError(_faults(path, error)) from error


def read_password(settings: DatabaseSettings) -> str:
    """Return the content of the password file; raise SettingsError when there is none."""
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(
            f"database.password_file={settings.password_file}: cannot be read ({error.strerror})"
        ) from error


def _faults(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: correct the env file and compile it again"]
    for fault in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        shown = "" if isinstance(fault["input"], dict | bytes) else f"={fault['input']!r:.60}"
        lines.append(f"  {field}{shown}: {fault['msg']}")
    return "\n".join(lines)
