"""What api.json, worker.json and migrate.json hold, how they are read, what changes live.

The files are rendered from the env file; nothing else configures the service. A field that is
missing (but for the form of the log), misspelt or out of range stops the process before it opens
anything.

While a process runs, its settings are one frozen document that is replaced as a whole. Code
that reads a live field keeps the holder and asks it each time it needs the value; whoever
keeps the document keeps the values of that moment.
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

from app.pool import ConnectionSettings, PoolSettings

SETTINGS_VARIABLE = "SLUICE_SETTINGS"
# One transaction stores them all: 1,000 sites are 320,000 tasks.
SITES_HARD_MAX = 1000
LogFormat = Literal["json", "text"]


class SettingsError(Exception):
    """The settings file cannot be used; the message has a line for each fault, with its field."""


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


def _complete(kind: type) -> WrapValidator:
    """Return the check that a section names every field: defaults are for users of the library."""
    names = [one.name for one in fields(kind)]

    def check(section: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        given = section if isinstance(section, dict) else names
        faults = [
            InitErrorDetails(type="missing", loc=(name,), input=section)
            for name in names
            if name not in given
        ]
        try:
            made = validate(section)
        except ValidationError as error:
            # What is missing and what is wrong with the rest; ranges where the types are right.
            known = {fault["loc"] for fault in faults}
            faults += [
                cast(InitErrorDetails, fault)
                for fault in error.errors(include_url=False)
                if fault["loc"] not in known
            ]
            raise ValidationError.from_exception_data(kind.__name__, faults) from error
        if faults:
            raise ValidationError.from_exception_data(kind.__name__, faults)
        return made

    return WrapValidator(check)


# The library checks their ranges itself.
Database = Annotated[ConnectionSettings, _complete(ConnectionSettings)]
Pool = Annotated[PoolSettings, _complete(PoolSettings)]


class LimitSettings(Section):
    """What one request may ask for."""

    sites_max: int = Field(ge=1, le=SITES_HARD_MAX)


class LogSettings(Section):
    """How much is logged, and as what: JSON for programs, text for people."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    format: LogFormat = "json"


class WorkSettings(Section):
    """How the worker takes tasks: seconds unless the name says otherwise."""

    threads: int = Field(ge=1)
    batch_tasks: int = Field(ge=1)
    lease_seconds: float = Field(gt=0)
    poll_interval_seconds: float = Field(gt=0)
    poll_interval_max_seconds: float = Field(gt=0)
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

    @model_validator(mode="after")
    def _pauses_grow(self) -> "WorkSettings":
        if self.poll_interval_seconds > self.poll_interval_max_seconds:
            raise ValueError(
                f"poll_interval_seconds={self.poll_interval_seconds} exceeds "
                f"poll_interval_max_seconds={self.poll_interval_max_seconds}"
            )
        return self


class ControlSettings(Section):
    """The operators' control plane: where it listens, as whom, and the token it asks for."""

    alias: str = Field(min_length=1)
    port: int = Field(ge=0, le=65535)
    certificate_file: str = Field(min_length=1)
    key_file: str = Field(min_length=1)
    token_file: str = Field(min_length=1)


class HintSettings(Section):
    """Where hints go (api: the name of the workers) or are listened for (worker: an address)."""

    host: str = Field(min_length=1)
    port: int = Field(ge=0, le=65535)


class StandbySettings(Section):
    """Where to read while there is no primary, as `database` otherwise; no name: nowhere."""

    dbname: str
    max_size: int = Field(ge=1)


class ApiSettings(Section):
    """The whole of api.json; the monitor port has health and metrics, and is not published."""

    service: Literal["api"]
    processes: int = Field(ge=1)
    monitor_port: int = Field(ge=1, le=65535)
    http: HttpSettings
    database: Database
    pool: Pool
    standby: StandbySettings
    limits: LimitSettings
    log: LogSettings
    control: ControlSettings
    hints: HintSettings


class WorkerSettings(Section):
    """The whole of worker.json."""

    service: Literal["worker"]
    http: HttpSettings
    database: Database
    pool: Pool
    worker: WorkSettings
    log: LogSettings
    control: ControlSettings
    hints: HintSettings

    @model_validator(mode="after")
    def _threads_have_connections(self) -> "WorkerSettings":
        if self.worker.threads > self.pool.max_size:
            raise ValueError(
                f"worker.threads={self.worker.threads} exceeds pool.max_size="
                f"{self.pool.max_size}; a thread would wait for another thread"
            )
        return self


class ReferenceSettings(Section):
    """The synthetic reference data: the step of their grid, in degrees."""

    grid_degrees: float = Field(ge=0.1, le=1.0, allow_inf_nan=False)


class MigrateSettings(Section):
    """The whole of migrate.json."""

    service: Literal["migrate"]
    database: Database
    reference: ReferenceSettings
    log: LogSettings


S = TypeVar("S", bound=Section)
Service = TypeVar("Service", ApiSettings, WorkerSettings)


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
    faults = [
        line
        for fault in error.errors(include_url=False, include_context=False)
        for line in _fault_lines(fault)
    ]
    head = f"{path}: {len(faults)} fault(s); correct the env file and compile it again"
    return "\n".join([head, *(f"  {line}" for line in faults)])


def _fault_lines(fault: ErrorDetails) -> Iterator[str]:
    """Yield one line for each fault: a section that checks itself names all of its own."""
    field = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
    value = fault["input"]
    shown = "" if isinstance(value, (dict, list, bytes)) else f"={value!r:.60}"
    for text in fault["msg"].removeprefix("Value error, ").splitlines():
        yield text if text.startswith(f"{field}.") else f"{field}{shown}: {text}"


# The fields that the process can take over without a restart. The setting table says the
# same of the settings behind them.
LIVE_FIELDS = frozenset(
    {
        "pool.min_size",
        "pool.max_size",
        "log.level",
        "log.format",
        "limits.sites_max",
        "http.event_streams_max",
        "worker.batch_tasks",
        "worker.lease_seconds",
        "worker.poll_interval_seconds",
        "worker.poll_interval_max_seconds",
        "worker.attempts_max",
        "worker.retry_delay_seconds",
        "worker.batch_deadline_seconds",
    }
)


class Live(Generic[S]):
    """The running settings. Reading and replacing are one assignment each: no lock."""

    def __init__(self, settings: S) -> None:
        self.current = settings

    def replace(self, settings: S) -> None:
        """Apply other settings, for whoever asks from now on."""
        self.current = settings


def flat(settings: Section) -> dict[str, object]:
    """Return every value under its dotted name, such as `pool.max_size`."""
    document = settings.model_dump(mode="json")
    return dict(_leaves(document, ""))


def differing(running: Section, wanted: Section) -> tuple[str, ...]:
    """Return the dotted names of the fields whose values differ, sorted."""
    ours, theirs = flat(running), flat(wanted)
    return tuple(sorted(name for name in ours if ours[name] != theirs[name]))


def merged(running: S, wanted: S) -> S:
    """Return the running settings with the live fields of `wanted`.

    Raises:
        ValidationError: the new live values do not go with those that need a restart.

    """
    document = running.model_dump(mode="json")
    theirs = flat(wanted)
    for name in LIVE_FIELDS & theirs.keys():
        section, field = name.split(".")
        document[section][field] = theirs[name]
    return type(running).model_validate(document)


def _leaves(value: object, prefix: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [
        leaf
        for name, part in value.items()
        for leaf in _leaves(part, f"{prefix}.{name}" if prefix else name)
    ]
