"""A process under control: a settings file, a stand-in pool, a certificate and a token."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from app.control.process import Process
from app.pool import PoolState
from app.settings import ControlSettings, Live, WorkerSettings, load_settings
from infra.config import issuing
from infra.config.issuing import Pair
from tests.unit.service.conftest import WORKER

TOKEN = "a-token-of-the-operators"  # noqa: S105  # made up for these tests


class StandInPool:
    """Remembers what it was told; refuses what the real pool refuses."""

    def __init__(self) -> None:
        self.sizes = (WORKER["pool"]["min_size"], WORKER["pool"]["max_size"])
        self.resized: list[tuple[int, int]] = []
        self.drained = 0

    def state(self) -> PoolState:
        return PoolState("risk_batch", 2, *self.sizes, 0, 2, 0, 64)

    def resize(self, min_size: int, max_size: int) -> None:
        if min_size > max_size:
            raise ValueError(f"pool.min_size={min_size} exceeds pool.max_size={max_size}")
        self.sizes = (min_size, max_size)
        self.resized.append(self.sizes)

    def drain(self) -> None:
        self.drained += 1


class SettingsFile:
    """worker.json, as the compiler would replace it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "worker.json"
        self.write()

    def write(self, **changed: Any) -> None:
        """Write the settings with changed fields, `section__field=value`."""
        document = json.loads(json.dumps(WORKER))
        for name, value in changed.items():
            section, field = name.split("__")
            document[section][field] = value
        self.path.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def pool() -> StandInPool:
    return StandInPool()


@pytest.fixture
def file(tmp_path: Path) -> SettingsFile:
    return SettingsFile(tmp_path)


@pytest.fixture
def live(file: SettingsFile) -> Live[WorkerSettings]:
    return Live(load_settings(file.path, WorkerSettings))


@pytest.fixture
def process(
    live: Live[WorkerSettings], file: SettingsFile, pool: StandInPool
) -> Process[WorkerSettings]:
    return Process(live, file.path, pool)


@pytest.fixture
def authority() -> Pair:
    return issuing.make_authority(datetime.datetime.now(datetime.UTC))


@pytest.fixture
def control(tmp_path: Path, authority: Pair) -> ControlSettings:
    settings = ControlSettings(
        alias="127.0.0.1",
        port=0,
        certificate_file=str(tmp_path / "control.crt"),
        key_file=str(tmp_path / "control.key"),
        token_file=str(tmp_path / "control.token"),
    )
    issue(authority, settings)
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem)
    Path(settings.token_file).write_text(TOKEN, encoding="ascii")
    return settings


def issue(authority: Pair, settings: ControlSettings) -> Pair:
    """Put a new certificate for localhost in place, as the compiler does; return it."""
    now = datetime.datetime.now(datetime.UTC)
    pair = issuing.make_server("localhost", authority, now, days=2)
    for path, content in (
        (settings.certificate_file, pair.certificate_pem),
        (settings.key_file, pair.key_pem),
    ):
        fresh = Path(path + ".new")
        fresh.write_bytes(content)
        fresh.replace(path)
    return pair
