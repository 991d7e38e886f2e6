"""Rotations: which secrets are new, in which steps, and what an interrupted one leaves."""

from pathlib import Path

import pytest

from infra.config import scram
from infra.config.certificates import ALSO_TRUSTED
from infra.config.faults import FaultyInputError
from infra.config.secrets import TOKENS
from infra.ops.outcome import RefusedError
from infra.ops.rotation import pending
from infra.ops.rotation.pairs import steps
from infra.ops.rotation.passwords import Choice
from tests.unit.infra.support import LOGIN_ROLES, PASSWORDS

SALT = b"0123456789abcdef"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a directory of secrets as the compiler keeps them."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    for role in LOGIN_ROLES:
        password = f"the-password-of-{role}"
        (directory / f"{role}.password").write_text(password)
        (directory / f"{role}.scram").write_text(scram.verifier(password, SALT))
    for name in TOKENS:
        (directory / name).write_text(f"the-token-{name}")
    return directory


def test_everyone_gets_another_secret(kept: Path) -> None:
    choice = Choice(kept, None, LOGIN_ROLES)
    old, new = choice.old(), choice.new()
    assert set(new) == {*PASSWORDS, *TOKENS}
    assert all(new[name] != old[name] for name in new)
    assert len(set(new.values())) == len(new)
    assert all(len(content) >= 40 for content in new.values())


def test_a_given_secret_is_taken_and_the_rest_made(kept: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "risk_api.password").write_bytes(b"chosen-by-an-operator")
    new = Choice(kept, given, LOGIN_ROLES).new()
    assert new["risk_api.password"] == b"chosen-by-an-operator"
    assert len(new["risk_worker.password"]) >= 40


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"given: has none of: .*, risk_api\.password, "),
        (["README"], "given: has none of: "),
        (["risk-api.password"], r"given/risk-api\.password: is none of: .*, risk_api\.password, "),
        (["risk_api.password", "risk_apl.token"], r"given/risk_apl\.token: is none of: "),
    ],
)
def test_a_directory_without_what_it_was_given_for_is_refused(
    kept: Path, tmp_path: Path, files: list[str], message: str
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for name in files:
        (given / name).write_bytes(b"chosen-by-an-operator")
    with pytest.raises(FaultyInputError, match=message):
        pending.require_given(given, (*Choice(kept, given, LOGIN_ROLES).passwords, *TOKENS))


def test_a_directory_may_hold_what_another_rotation_takes(tmp_path: Path) -> None:
    for name in ("risk_api.password", "ca.crt", "notes.txt"):
        (tmp_path / name).touch()
    pending.require_given(tmp_path, PASSWORDS)
    pending.require_given(None, PASSWORDS)


def test_what_is_given_is_looked_for_in_what_was_finished(kept: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "risk_api.password").write_bytes(b"chosen-by-an-operator")
    made = Choice(kept, None, LOGIN_ROLES).new()
    choice = Choice(kept, given, LOGIN_ROLES)
    assert Choice(kept, None, LOGIN_ROLES).is_met_by(made)
    assert not choice.is_met_by(made)
    assert choice.is_met_by(made | {"risk_api.password": b"chosen-by-an-operator"})


def test_a_password_that_was_placed_beforehand_is_taken_and_the_old_one_unknown(kept: Path) -> None:
    (kept / "risk_api.password").write_bytes(b"placed-by-an-operator")
    choice = Choice(kept, None, LOGIN_ROLES)
    assert choice.new()["risk_api.password"] == b"placed-by-an-operator"
    assert "risk_api.password" not in choice.old()
    assert "risk_api.scram" in choice.old()


def test_a_rotation_that_was_begun_is_found_with_both_sets(tmp_path: Path) -> None:
    pending.begin(tmp_path, "passwords", old={"a": b"1"}, new={"a": b"2"})
    found = pending.load(tmp_path, "passwords")
    assert found is not None
    assert (found.old, found.new, found.resumed) == ({"a": b"1"}, {"a": b"2"}, True)
    assert found.new_file("a").read_bytes() == b"2"
    assert found.new_file("a").stat().st_mode & 0o777 == 0o400
    assert pending.unfinished(tmp_path) == "passwords"


def test_another_rotation_is_refused_until_the_first_is_finished(tmp_path: Path) -> None:
    begun = pending.begin(tmp_path, "passwords", old={}, new={})
    with pytest.raises(RefusedError, match="a rotation of passwords is not finished"):
        pending.load(tmp_path, "certificates")
    begun.forget()
    assert pending.load(tmp_path, "certificates") is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_begin_left_is_no_rotation(tmp_path: Path) -> None:
    (tmp_path / ".rotation.new" / "old").mkdir(parents=True)
    assert pending.unfinished(tmp_path) is None
    pending.begin(tmp_path, "passwords", old={}, new={})
    assert pending.unfinished(tmp_path) == "passwords"


OLD = {"ca.crt": b"old ca", "ca.key": b"old key", "postgres.crt": b"old"}


def test_new_certificates_of_the_same_ca_come_in_one_step() -> None:
    new = {"postgres.crt": b"new"}
    assert steps(OLD, new, promoted=False) == [new]


def test_another_ca_is_trusted_before_it_is_used_and_the_old_one_until_it_is_not() -> None:
    new = {"ca.crt": b"new ca", "ca.key": b"new key", "postgres.crt": b"new"}
    first, second, third = steps(OLD, new, promoted=False)
    assert first == {ALSO_TRUSTED: b"new ca"}
    assert second == new | {ALSO_TRUSTED: b"old ca"}
    assert third == new | {ALSO_TRUSTED: b""}


def test_a_run_that_had_begun_to_use_the_other_ca_never_goes_back() -> None:
    new = {"ca.crt": b"new ca", "ca.key": b"new key", "postgres.crt": b"new"}
    assert steps(OLD, new, promoted=True) == steps(OLD, new, promoted=False)[1:]


def test_the_key_of_the_old_ca_goes_when_the_new_one_comes_without() -> None:
    new = {"ca.crt": b"new ca", "postgres.crt": b"new"}
    assert all(step["ca.key"] is None for step in steps(OLD, new, promoted=True))
