"""Secrets of the repository that are given: what is taken, and what is refused."""

from pathlib import Path

import pytest

from infra.backup import key
from infra.config.secrets import BACKUP_KEY
from infra.ops.outcome import Exit

OLD, NEW = "an-old-key-of-the-repository", "another-key-of-the-repository"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(key, "_SECRETS", tmp_path / "secrets")
    monkeypatch.setattr(key, "_GIVEN", tmp_path)
    return tmp_path / BACKUP_KEY


def test_a_key_is_put_where_there_is_none_and_again(given: Path) -> None:
    given.write_text(f"{NEW}\n")
    for _ in range(2):
        assert key.main() == Exit.OK
        assert (given.parent / "secrets" / BACKUP_KEY).read_text() == NEW


def test_another_key_is_replaced_only_where_that_is_asked_for(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given.write_text(OLD)
    assert key.main() == Exit.OK
    given.write_text(NEW)
    assert key.main() == Exit.REFUSED
    told = "".join(capsys.readouterr())
    assert "make backup-key" in told
    assert "REPLACE=yes" in told
    assert OLD not in told
    assert NEW not in told
    held = given.parent / "secrets" / BACKUP_KEY
    assert held.read_text() == OLD
    assert key.main("--replace") == Exit.OK
    assert held.read_text() == NEW
