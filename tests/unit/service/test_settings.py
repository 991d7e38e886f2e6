"""The settings files: what is accepted and how a fault is reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.settings import ApiSettings, SettingsError, WorkerSettings, load_settings

Document = dict[str, Any]


def write(path: Path, document: Document) -> Path:
    file = path / "settings.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def test_complete_files_are_accepted(
    tmp_path: Path, api_document: Document, worker_document: Document
) -> None:
    assert load_settings(write(tmp_path, api_document), ApiSettings).http.port == 8000
    settings = load_settings(write(tmp_path, worker_document), WorkerSettings)
    assert settings.worker.batch_tasks == 40


def test_every_fault_is_listed_with_its_field(tmp_path: Path, api_document: Document) -> None:
    api_document["http"]["port"] = 70000
    api_document["pool"]["max_sise"] = 4
    del api_document["log"]
    file = write(tmp_path, api_document)
    with pytest.raises(SettingsError) as caught:
        load_settings(file, ApiSettings)
    text = str(caught.value)
    assert str(file) in text
    assert "http.port=70000" in text
    assert "pool.max_sise" in text
    assert "  log: " in text


def test_every_fault_of_a_section_is_a_line_with_its_field(
    tmp_path: Path, api_document: Document
) -> None:
    api_document["pool"] |= {"max_waiting": 0, "min_size": 17}
    api_document["database"] |= {"host": "", "port": 65536, "connect_timeout_seconds": 1}
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path, api_document), ApiSettings)
    head, *lines = str(caught.value).splitlines()
    assert "5 fault(s)" in head
    assert [line.split("=")[0].split(" is")[0] for line in lines] == [
        "  database.host",
        "  database.connect_timeout_seconds",
        "  database.port",
        "  pool.max_waiting",
        "  pool.min_size",
    ]


def test_a_misspelt_field_is_named_beside_the_one_that_is_missing_and_a_wrong_one(
    tmp_path: Path, api_document: Document
) -> None:
    api_document["pool"]["max_sise"] = api_document["pool"].pop("max_size")
    api_document["pool"]["num_workers"] = "many"
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path, api_document), ApiSettings)
    head, *lines = str(caught.value).splitlines()
    assert "3 fault(s)" in head
    assert sorted(line.split(":")[0].split("=")[0] for line in lines) == [
        "  pool.max_sise",
        "  pool.max_size",
        "  pool.num_workers",
    ]


@pytest.mark.parametrize("section", ["pool", "database"])
def test_a_default_of_the_library_is_none_of_the_service(
    tmp_path: Path, api_document: Document, section: str
) -> None:
    name = next(reversed(api_document[section]))
    del api_document[section][name]
    with pytest.raises(SettingsError, match=rf"{section}\.{name}: Field required"):
        load_settings(write(tmp_path, api_document), ApiSettings)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_log_is_json_or_text(tmp_path: Path, api_document: Document, form: str) -> None:
    api_document["log"]["format"] = form
    assert load_settings(write(tmp_path, api_document), ApiSettings).log.format == form


def test_a_log_is_json_unless_said_otherwise_and_never_something_else(
    tmp_path: Path, api_document: Document
) -> None:
    del api_document["log"]["format"]
    assert load_settings(write(tmp_path, api_document), ApiSettings).log.format == "json"
    api_document["log"]["format"] = "xml"
    with pytest.raises(SettingsError, match=r"log\.format='xml'"):
        load_settings(write(tmp_path, api_document), ApiSettings)


@pytest.mark.parametrize(
    ("section", "field", "value", "rule"),
    [
        ("worker", "threads", 17, "a thread would wait for another thread"),
        ("worker", "lease_seconds", 40.0, "a batch outlives its own lease"),
        ("pool", "min_size", 17, "exceeds max_size"),
        ("worker", "poll_interval_seconds", 9.0, "exceeds poll_interval_max_seconds"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    tmp_path: Path, worker_document: Document, section: str, field: str, value: Any, rule: str
) -> None:
    worker_document[section][field] = value
    with pytest.raises(SettingsError, match=rule):
        load_settings(write(tmp_path, worker_document), WorkerSettings)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.json.*SLUICE_SETTINGS"):
        load_settings(tmp_path / "missing.json", ApiSettings)


def test_settings_cannot_change_later(api_document: Document) -> None:
    settings = ApiSettings.model_validate(api_document)
    with pytest.raises(ValueError, match="frozen"):
        settings.http.port = 1
