"""A repository whose key is lost makes way for a new one; any other stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.backup import repository, serve
from infra.backup.repository import AnotherKeyError, Info, RepositoryError
from infra.ops.outcome import RefusedError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository's directory, which has backups and no log yet."""
    monkeypatch.setattr(repository, "DIRECTORY", tmp_path)
    monkeypatch.setattr(repository, "is_directory", lambda: True)
    (tmp_path / "backup" / "sluice").mkdir(parents=True)
    (tmp_path / "backup" / "sluice" / "backup.info").write_text("unreadable")
    return tmp_path


def _with_another_key() -> Info:
    raise AnotherKeyError("cannot be read with this key")


def test_what_cannot_be_read_is_kept_beside_the_new_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(repository, "info", _with_another_key)
    serve.put_aside()
    (aside,) = directory.iterdir()
    assert aside.name in capsys.readouterr().err
    assert (aside / "backup" / "sluice" / "backup.info").read_text() == "unreadable"


# As pgBackRest 2.56 prints it: bytes that are no text, and characters that JSON has not.
WITH_ANOTHER_KEY = b"""#!/bin/sh
printf '[{"archive":[],"backup":[],"db":[],"name":"sluice","repo":[{"key":1,"status":{"code":99,'
printf '"message":"[FormatError] unable to load info file:\\\\nFormatError: key/value found'
printf ' outside of section at line 1: `\\317\\320Ta\\331d"}}]}]'
"""


def test_what_another_key_makes_of_the_repository_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pgbackrest"
    program.write_bytes(WITH_ANOTHER_KEY)
    program.chmod(0o755)
    monkeypatch.setattr(repository, "command", lambda *_: [str(program)])
    with pytest.raises(AnotherKeyError, match="cannot be read with this key; put back"):
        repository.info()


def test_one_that_cannot_be_read_for_another_reason_stays(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses() -> Info:
        raise RepositoryError("info: not done after 120 s")

    monkeypatch.setattr(repository, "info", refuses)
    with pytest.raises(RepositoryError, match="not done"):
        serve.put_aside()
    assert [path.name for path in directory.iterdir()] == ["backup"]


def test_a_repository_that_can_be_read_stays(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "info", Info)
    with pytest.raises(RefusedError, match="can be read; nothing is put aside"):
        serve.put_aside()
    assert [path.name for path in directory.iterdir()] == ["backup"]


def test_one_on_another_machine_is_told_to_take_another_place(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "is_directory", lambda: False)
    with pytest.raises(RefusedError, match="another BACKUP_PATH"):
        serve.put_aside()
    assert [path.name for path in directory.iterdir()] == ["backup"]
