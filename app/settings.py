"""What api.json and worker.json hold, and how they are read.

The files are rendered from the env file; nothing else configures the service. A field
that is missing, misspelt or out of range stops the process before it opens anything.
"""

import os
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SETTINGS_VARIABLE = "SLUICE_SETTINGS"
# One transaction stores them all: 1,000 sites are 320,000 tasks.
SITES_HARD_MAX = 1000


class SettingsError(Exception):
    """The settings file cannot be used; the message lists every fault with its field."""


class Section(BaseModel):
    """A part of a settings file: unknown keys are refused, values cannot change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(Section):
    """The HTTP server of the api, or the status server of the worker."""

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    max_body_bytes: int = Field(ge=1024)
    request_deadline_seconds: float = Field(gt=0)
    threads: int = Field(ge=1)
    event_streams_max: int = Field(ge=1)
    shutdown_grace_seconds: float = Field(ge=0)


class DatabaseSettings(Section):
    """One connection: field by field what app.pool.ConnectionSettings takes."""

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    dbname: str = Field(min_length=1)
    user: str = Field(min_length=1)
    password_file: str = Field(min_length=1)
    sslmode: str
    sslrootcert: str
    load_balance_hosts: str
    application_name: str
    connect_timeout_seconds: int = Field(ge=2)
    tcp_user_timeout_ms: int = Field(ge=0)
    keepalives_idle_seconds: int = Field(ge=1)
    keepalives_interval_seconds: int = Field(ge=1)
    keepalives_count: int = Field(ge=1)
    prepare_threshold: int | None = Field(ge=0)
    prepared_max: int = Field(ge=0)


class PoolSection(Section):
    """One pool: field by field what app.pool.PoolSettings takes."""

    min_size: int = Field(ge=0)
    max_size: int = Field(ge=1)
    timeout_seconds: float = Field(gt=0)
    max_waiting: int = Field(ge=1)
    max_lifetime_seconds: float = Field(gt=0)
    max_idle_seconds: float = Field(gt=0)
    reconnect_timeout_seconds: float = Field(gt=0)
    num_workers: int = Field(ge=1)
    check_idle_seconds: float = Field(ge=0)
    leak_threshold_seconds: float = Field(gt=0)
    retry_budget_seconds: float = Field(ge=0)
    retry_attempts_max: int = Field(ge=1)

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> "PoolSection":
        if self.min_size > self.max_size:
            raise ValueError(f"min_size={self.min_size} exceeds max_size={self.max_size}")
        return self


class LimitSettings(Section):
    """What one request may ask for."""

    sites_max: int = Field(ge=1, le=SITES_HARD_MAX)


class LogSettings(Section):
    """How much is logged."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    format: Literal["json", "text"] = "json"


class WorkSettings(Section):
    """How the worker takes tasks: seconds unless the name says otherwise."""

    threads: int = Field(ge=1)
    batch_tasks: int = Field(ge=1)
    lease_seconds: float = Field(gt=0)
    poll_interval_seconds: float = Field(gt=0)
    attempts_max: int = Field(ge=1)
    retry_delay_seconds: float = Field(ge=0)
    batch_deadline_seconds: float = Field(gt=0)
    shutdown_grace_seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _lease_outlives_batch(self) -> "WorkSettings":
        if self.batch_deadline_seconds >= self.lease_seconds:
            raise ValueError(
                f"batch_deadline_seconds={self.batch_deadline_seconds} must be less than "
                f"lease_seconds={self.lease_seconds}, or a batch outlives its own lease"
            )
        return self


class ControlSettings(Section):
    """The operators' control plane: where it listens, as whom, and the token it asks for."""

    alias: str = Field(min_length=1)
    port: int = Field(ge=0, le=65535)
    certificate_file: str = Field(min_length=1)
    key_file: str = Field(min_length=1)
    token_file: str = Field(min_length=1)


class ApiSettings(Section):
    """The whole of api.json."""

    service: Literal["api"]
    http: HttpSettings
    database: DatabaseSettings
    pool: PoolSection
    limits: LimitSettings
    log: LogSettings
    control: ControlSettings


class WorkerSettings(Section):
    """The whole of worker.json."""

    service: Literal["worker"]
    http: HttpSettings
    database: DatabaseSettings
    pool: PoolSection
    worker: WorkSettings
    log: LogSettings
    control: ControlSettings

    @model_validator(mode="after")
    def _threads_have_connections(self) -> "WorkerSettings":
        if self.worker.threads > self.pool.max_size:
            raise ValueError(
                f"worker.threads={self.worker.threads} exceeds pool.max_size="
                f"{self.pool.max_size}; a thread would wait for another thread"
            )
        return self


S = TypeVar("S", bound=Section)


def settings_path(service: str) -> Path:
    """Return the path of a service's settings file, from SLUICE_SETTINGS or the default."""
    return Path(os.environ.get(SETTINGS_VARIABLE) or f"/etc/sluice/{service}.json")


def load_settings(path: Path, model: type[S]) -> S:
    """Read and check a settings file; raise SettingsError that lists every fault."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); it is written by the config service, "
            f"or name another file in {SETTINGS_VARIABLE}"
        ) from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise SettingsError(_describe(path, error)) from error


def _describe(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: {error.error_count()} fault(s); correct the env file and compile it again"]
    for fault in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        shown = (
            "" if isinstance(fault["input"], (dict, list, bytes)) else f"={fault['input']!r:.60}"
        )
        lines.append(f"  {field}{shown}: {fault['msg']}")
    return "\n".join(lines)
