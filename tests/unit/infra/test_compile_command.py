"""`python -m infra.config`: exit codes, what is written, and what is not."""

import os
from pathlib import Path

import pytest

from infra.config import write
from infra.config.__main__ import main
from infra.config.lock import LOCK_FILE_NAME, operation_lock
from infra.config.render import Rendered
from tests.unit.infra.support import write_env


@pytest.fixture(autouse=True)
def _anybody_may_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests run as any user: files stay with whoever runs them."""
    monkeypatch.setattr(os, "chown", lambda *_: None)


def _run(directory: Path) -> int:
    return main(
        [
            f"--env-dir={directory}",
            f"--out={directory / 'out'}",
            f"--secrets={directory / 'secrets'}",
        ]
    )


def test_an_operation_under_way_is_waited_for_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.config.__main__.OPERATION_SECONDS", 0.1)
    monkeypatch.setattr("infra.config.lock.GRACE_SECONDS", 0.1)
    write_env(tmp_path)
    (tmp_path / "out" / "ops").mkdir(parents=True)
    with operation_lock(tmp_path / "out" / "ops", "rotate passwords"):
        assert _run(tmp_path) == 3
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["ops", LOCK_FILE_NAME]
    assert not (tmp_path / "secrets").exists()
    waited, refused = capsys.readouterr().err.splitlines()
    assert waited.startswith("waiting until it is over: rotate passwords in container")
    assert refused.endswith("is under way; wait for it; nothing was written")
    assert _run(tmp_path) == 0


def test_a_sound_env_file_is_compiled(tmp_path: Path) -> None:
    write_env(tmp_path)
    assert _run(tmp_path) == 0
    tiers = {path.name for path in (tmp_path / "out").iterdir()}
    assert tiers == {"postgres", "pgbouncer", "app", "ops", "observability"}
    expected = (
        "postgresql.conf pg_hba.conf pg_ident.conf roles.sql server.crt server.key "
        "pgbackrest.conf backups.json "
        "backup.key backup.ca backup.s3-key backup.s3-key-secret backup.sftp-key"
    )
    found = {path.name for path in (tmp_path / "out" / "postgres").iterdir()}
    assert found == {*expected.split(), "ca.crt", "monitor.pgpass"}


def test_faults_are_listed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_env(tmp_path, WORKER_THREADS=16, API_PORT=0, ZZZ=1)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "risk_api.password").write_text("short")
    assert _run(tmp_path) == 2
    assert not (tmp_path / "out").exists()
    assert [path.name for path in secrets.iterdir()] == ["risk_api.password"]
    errors = capsys.readouterr().err
    assert (
        "infra/env/stack.env: WORKER_THREADS=16 exceeds WORKER_POOL_MAX_SIZE=6; "
        "a thread would wait for another thread\n"
    ) in errors
    for part in ("API_PORT=0 is outside", "ZZZ=1 is not a setting", "has 5 characters"):
        assert part in errors
    assert errors.endswith("4 fault(s); nothing was written\n")


def test_a_missing_env_file_is_refused(tmp_path: Path) -> None:
    assert _run(tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_env(tmp_path)
    (tmp_path / "out").write_text("a file in the way")
    assert _run(tmp_path) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_second_compile_leaves_every_secret(tmp_path: Path) -> None:
    write_env(tmp_path)
    _run(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}
    write_env(tmp_path, API_THREADS=41)
    assert _run(tmp_path) == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}
    assert after == before


def test_a_file_with_the_same_bytes_is_left_alone(tmp_path: Path) -> None:
    file = Rendered("tier/a.conf", b"same", os.geteuid(), 0o400)
    assert write.write_files([file], tmp_path) == ["tier/a.conf"]
    inode = (tmp_path / file.path).stat().st_ino
    assert write.write_files([file], tmp_path) == []
    assert (tmp_path / file.path).stat().st_ino == inode


@pytest.mark.parametrize(("content", "mode"), [(b"other", 0o400), (b"same", 0o440)])
def test_other_bytes_or_another_mode_replace_the_file(
    tmp_path: Path, content: bytes, mode: int
) -> None:
    write.write_files([Rendered("a", b"same", os.geteuid(), 0o400)], tmp_path)
    assert write.write_files([Rendered("a", content, os.geteuid(), mode)], tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == content
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_the_owner_is_set_before_the_file_is_in_place(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, bool]] = []

    def chown(path: Path, uid: int, gid: int) -> None:
        seen.append((path.name, uid, gid, (tmp_path / "a").exists()))

    write.write_files([Rendered("a", b"x", 10070, 0o400)], tmp_path, chown=chown)
    assert seen == [(".a.new", 10070, 10070, False)]


def test_the_rest_of_an_interrupted_write_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".a.new").write_bytes(b"half")
    write.write_files([Rendered("a", b"whole", os.geteuid(), 0o400)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
