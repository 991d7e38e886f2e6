"""What a rotation says that it did, and that it shows no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue
from infra.config.faults import Fault, FaultyInputError
from infra.config.secrets import TOKENS
from infra.ops.clients import pgbouncer
from infra.ops.operation import Paths
from infra.ops.outcome import Exit, FailedError
from infra.ops.rotation import certificates, passwords, pending
from tests.unit.ops.support import POOLERS, SETTINGS, Run, processes


@pytest.mark.parametrize("what", ["passwords", "certificates"])
def test_a_rotation_that_refuses_what_it_was_given_names_every_fault(
    document_of: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    def faulty(_: object) -> None:
        raise FaultyInputError([Fault("a.password", "has 5 characters"), Fault("b", "is no PEM")])

    monkeypatch.setattr(passwords, "compiled_values", lambda _: catalogue.defaults())
    monkeypatch.setattr(certificates, "compiled_values", lambda *_: None)
    monkeypatch.setattr(passwords.PasswordRotation, "run", faulty)
    monkeypatch.setattr(certificates.CertificateRotation, "run", faulty)
    paths = Paths(tmp_path, tmp_path)
    document = document_of(
        lambda request: (
            passwords.rotate(SETTINGS, paths, None, request)
            if what == "passwords"
            else certificates.rotate(SETTINGS, paths, None, request, new_ca=False)
        )
    )
    assert document["exit_code"] == Exit.BAD_INPUT
    assert document["faults"] == ["a.password: has 5 characters", "b: is no PEM"]
    assert document["state"].startswith("nothing was changed")
    assert (document["secrets"], document["resumed"]) == ([], False)


@pytest.fixture
def rotated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Paths:
    """Have a rotation of passwords succeed in every step."""

    class Step:
        def run(self, _: object) -> float:
            return 0.25

        def replace(self) -> None:
            pass

    new = dict.fromkeys(("risk_api.password", "risk_api.scram", *TOKENS), b"a-new-secret")
    begun = pending.begin(tmp_path, "passwords", old={}, new=new)
    monkeypatch.setattr(passwords, "compiled_values", lambda _: catalogue.defaults())
    rotation = passwords.PasswordRotation
    monkeypatch.setattr(pending, "load", lambda *_: None)
    monkeypatch.setattr(rotation, "_begun", lambda _: (begun, None, POOLERS))
    monkeypatch.setattr(rotation, "_switch", lambda *_: Step())
    monkeypatch.setattr(rotation, "_sessions", lambda *_: Step())
    monkeypatch.setattr(rotation, "_prove", lambda *_: None)
    return Paths(tmp_path, tmp_path)


def test_a_rotation_names_what_is_new_and_shows_no_secret(document_of: Run, rotated: Paths) -> None:
    document = document_of(lambda request: passwords.rotate(SETTINGS, rotated, None, request))
    assert document["exit_code"] == Exit.OK
    assert document["secrets"] == sorted(["risk_api.password", *TOKENS])
    assert document["switch_seconds"] == 0.25
    assert processes(document) == [
        (name, "takes the new passwords")
        for name in ("postgres.invalid", *(one.name for one in POOLERS))
    ]
    assert "a-new-secret" not in json.dumps(document)


@pytest.mark.parametrize(("given", "rotations"), [(b"made-before", 1), (b"chosen", 2), (None, 1)])
def test_what_was_asked_for_follows_what_was_not_finished(
    document_of: Run,
    rotated: Paths,
    monkeypatch: pytest.MonkeyPatch,
    given: bytes | None,
    rotations: int,
) -> None:
    new = {"risk_api.password": b"made-before"}
    left = pending.Pending("passwords", rotated.secrets / "rotation", {}, new, resumed=True)

    def begin(_: object) -> tuple[pending.Pending, None, Any]:
        return pending.begin(rotated.secrets, "passwords", old={}, new=new), None, POOLERS

    monkeypatch.setattr(pending, "load", lambda *_: left)
    monkeypatch.setattr(pgbouncer, "replicas", lambda _: POOLERS)
    monkeypatch.setattr(passwords.PasswordRotation, "_compile", lambda *_: None)
    monkeypatch.setattr(passwords.PasswordRotation, "_begun", begin)
    proven: list[bool] = []
    monkeypatch.setattr(
        passwords.PasswordRotation,
        "_prove",
        lambda _, rotation, __: proven.append(rotation.resumed),
    )
    source = None
    if given is not None:
        source = rotated.secrets / "given"
        source.mkdir()
        (source / "risk_api.password").write_bytes(given)
    document = document_of(lambda request: passwords.rotate(SETTINGS, rotated, source, request))
    assert document["exit_code"] == Exit.OK
    assert proven == [True, False][:rotations]


def test_a_rotation_that_fails_after_the_switch_says_what_is_new_already(
    document_of: Run, rotated: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise FailedError("pgbouncer-2: the old password is still accepted")

    monkeypatch.setattr(passwords.PasswordRotation, "_prove", fails)
    document = document_of(lambda request: passwords.rotate(SETTINGS, rotated, None, request))
    assert document["exit_code"] == Exit.FAILED
    assert document["faults"] == ["pgbouncer-2: the old password is still accepted"]
    assert document["secrets"]
