"""Secrets are made once, kept, and refused when they cannot be used."""

from pathlib import Path

import pytest

from infra.config.build import check, check_secrets
from infra.config.secrets import (
    CLUSTER_ID,
    SecretStore,
    cluster_id,
    passwords,
    tokens,
    verifiers,
)
from infra.config.write import write_secrets
from tests.unit.infra.support import LOGIN_ROLES, NOW, write_env


def _gather(directory: Path) -> tuple[dict[str, str], dict[str, str], list[str], SecretStore]:
    store = SecretStore(directory)
    known, faults = passwords(store, LOGIN_ROLES)
    made, more = verifiers(store, known)
    return known, made, [str(fault) for fault in (*faults, *more)], store


def test_every_role_gets_its_own_long_password(tmp_path: Path) -> None:
    known, made, faults, _ = _gather(tmp_path)
    assert not faults
    assert set(known) == set(made) == set(LOGIN_ROLES)
    assert len(set(known.values())) == len(LOGIN_ROLES)
    assert min(map(len, known.values())) >= 40


def test_every_control_alias_gets_its_own_token_which_is_kept(tmp_path: Path) -> None:
    store = SecretStore(tmp_path)
    made, faults = tokens(store)
    assert not faults
    assert set(store.pending) == {"api-control.token", "worker-control.token"}
    assert made["api-control"] != made["worker-control"]
    write_secrets(store.pending, tmp_path)
    assert tokens(SecretStore(tmp_path)) == (made, [])


def test_an_unusable_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "api-control.token").write_text("short")
    _, (fault,) = tokens(SecretStore(tmp_path))
    assert str(fault).startswith(f"{tmp_path}/api-control.token: has 5 characters")


def test_what_was_made_is_kept(tmp_path: Path) -> None:
    known, made, _, store = _gather(tmp_path)
    write_secrets(store.pending, tmp_path)
    again, made_again, faults, store = _gather(tmp_path)
    assert (again, made_again, faults, store.pending) == (known, made, [], {})


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    _, _, _, store = _gather(directory)
    write_secrets(store.pending, directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o400}


def test_a_supplied_password_is_taken_and_gets_a_verifier(tmp_path: Path) -> None:
    (tmp_path / "risk_api.password").write_text("a-password-of-the-operator")
    known, made, faults, store = _gather(tmp_path)
    assert not faults
    assert known["risk_api"] == "a-password-of-the-operator"
    assert "risk_api.password" not in store.pending
    assert store.pending["risk_api.scram"].decode() == made["risk_api"]


def test_a_changed_password_gets_a_new_verifier(tmp_path: Path) -> None:
    _, made, _, store = _gather(tmp_path)
    write_secrets(store.pending, tmp_path)
    (tmp_path / "risk_api.password").unlink()
    (tmp_path / "risk_api.password").write_text("another-password-of-the-operator")
    _, made_again, _, _ = _gather(tmp_path)
    assert made_again["risk_api"] != made["risk_api"]
    assert made_again["risk_worker"] == made["risk_worker"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"a-long-password\0-with-nul", "contains a NUL byte"),
        (b"a-long-password-and-newline\n", "contains a line break"),
        (b"a-long-password-and-newline\r\n", "contains a line break"),
        (b"fifteen-letters", "has 15 characters"),
        (b"x" * 129, "has 129 characters"),
        (b"a password with spaces", "must be printable ASCII"),
        ("ein-langes-paßwort".encode(), "must be printable ASCII"),
    ],
)
def test_an_unusable_password_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "risk_api.password"
    path.write_bytes(content)
    _, _, (fault,), _ = _gather(tmp_path)
    assert fault.startswith(f"{path}: ")
    assert says in fault
    assert not content or content.decode("latin-1") not in fault


@pytest.mark.parametrize("length", [16, 128])
def test_a_password_at_the_edge_of_its_length_is_taken(tmp_path: Path, length: int) -> None:
    (tmp_path / "risk_api.password").write_text("x" * length)
    _, _, faults, _ = _gather(tmp_path)
    assert not faults


def test_an_unreadable_password_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "risk_api.password").mkdir()
    _, _, (fault,), _ = _gather(tmp_path)
    assert "cannot be read" in fault


def test_all_unusable_passwords_are_reported(tmp_path: Path) -> None:
    for role in LOGIN_ROLES:
        (tmp_path / f"{role}.password").write_text("short")
    _, _, faults, _ = _gather(tmp_path)
    assert len(faults) == len(LOGIN_ROLES)


def test_the_id_of_three_instances_is_kept_while_one_is_asked_for(tmp_path: Path) -> None:
    store = SecretStore(tmp_path)
    assert cluster_id(store, replicated=False) == ""
    assert store.pending == {}
    made = cluster_id(store, replicated=True)
    write_secrets(store.pending, tmp_path)
    store = SecretStore(tmp_path)
    assert cluster_id(store, replicated=False) == ""
    assert store.pending == {}
    assert (tmp_path / CLUSTER_ID).read_text() == made == cluster_id(store, replicated=True)


def test_the_secrets_that_a_repository_takes_are_judged_before_anything_is_written(
    tmp_path: Path,
) -> None:
    changed = {
        "BACKUP_REPOSITORY": "s3",
        "BACKUP_HOST": "s3.example.org",
        "BACKUP_BUCKET": "sluice",
        "BACKUP_NETWORK": "uplink",
    }
    secrets = tmp_path / "secrets"
    found = check_secrets(check(write_env(tmp_path, **changed)), secrets, now=NOW)
    assert [fault.file for fault in found.faults] == [
        f"{secrets}/backup.s3-key",
        f"{secrets}/backup.s3-key-secret",
    ]
    assert "make backup-key FROM=directory" in str(found.faults[0])
    assert not secrets.exists()
    assert not check_secrets(check(write_env(tmp_path)), secrets, now=NOW).faults
