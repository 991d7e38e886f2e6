"""What the migration accepts as its settings file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.pool.connection import read_password
from app.schema.migrate import connect_once
from app.settings import MigrateSettings, SettingsError, load_settings

Write = Callable[[dict[str, Any]], Path]


def settings(**changes: Any) -> dict[str, Any]:
    database = {
        "host": "postgres",
        "port": 5432,
        "dbname": "risk",
        "user": "risk_owner",
        "password_file": "/etc/sluice/migrate.password",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/sluice/ca.crt",
        "load_balance_hosts": "disable",
        "application_name": "sluice-migrate",
        "connect_timeout_seconds": 3,
        "tcp_user_timeout_ms": 5000,
        "keepalives_idle_seconds": 5,
        "keepalives_interval_seconds": 2,
        "keepalives_count": 3,
        "prepare_threshold": 5,
        "prepared_max": 100,
    }
    return {
        "service": "migrate",
        "database": database,
        "reference": {"grid_degrees": 0.5},
        "log": {"level": "INFO"},
    } | changes


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: dict[str, Any]) -> Path:
        path = tmp_path / "migrate.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write_file


def load_migrate_settings(path: Path) -> MigrateSettings:
    return load_settings(path, MigrateSettings)


def test_a_rendered_file_is_accepted(write: Write) -> None:
    assert load_migrate_settings(write(settings())).reference.grid_degrees == 0.5


@pytest.mark.parametrize("grid_degrees", [0.09, 1.01, 0, -0.5, "wide", None])
def test_a_grid_out_of_range_is_refused_by_name(write: Write, grid_degrees: object) -> None:
    path = write(settings(reference={"grid_degrees": grid_degrees}))
    with pytest.raises(SettingsError, match=r"reference\.grid_degrees"):
        load_migrate_settings(path)


def test_all_faults_are_named_at_once(write: Write) -> None:
    path = write(settings(service="api", databse={}, log={"level": "LOUD"}))
    with pytest.raises(SettingsError) as refused:
        load_migrate_settings(path)
    message = str(refused.value)
    assert all(name in message for name in ("migrate.json", "service", "databse", "log.level"))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.json: cannot be read"):
        load_migrate_settings(tmp_path / "nowhere.json")


def test_the_password_is_the_file_without_its_line_end(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("sesame \n", encoding="utf-8")
    content = settings()
    content["database"]["password_file"] = str(secret)
    assert read_password(load_migrate_settings(write(content)).database) == "sesame "


def test_an_absent_password_file_is_named(write: Write, tmp_path: Path) -> None:
    content = settings()
    content["database"]["password_file"] = str(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"database\.password_file=.*nowhere"):
        connect_once(load_migrate_settings(write(content)).database)
