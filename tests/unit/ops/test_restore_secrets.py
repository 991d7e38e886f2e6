"""Secrets written back from the compiled files, or made anew where those are gone too."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path

import pytest

from infra.config import build, catalogue, issuing, recovery, write
from infra.config.host import Host
from infra.ops import restore_secrets
from infra.ops.operation import Paths
from infra.ops.outcome import Exit
from tests.unit.infra.support import PASSWORDS, write_env
from tests.unit.ops.support import Run

CERTIFICATES = {
    f"{name}.{kind}"
    for name in ("ca", "postgres", "pgbouncer", "api-control", "worker-control")
    for kind in ("crt", "key")
}


class Site:
    """A stack that is down: an env file, secrets, and the files compiled with them."""

    def __init__(self, root: Path) -> None:
        self.env_file = write_env(root)
        self.paths = Paths(root / "out", root / "secrets")
        self.compile(datetime.datetime.now(datetime.UTC))
        self.before = self.kept()

    def compile(self, now: datetime.datetime) -> None:
        made = build.compile_values(catalogue.defaults(), self.paths.secrets, now=now)
        write.write_all(made.new_secrets, self.paths.secrets, made.files, self.paths.out)

    def kept(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.paths.secrets.iterdir()}

    def lose(self, *tiers: str) -> None:
        """Lose the secrets, and the compiled files of some tiers."""
        for directory in (self.paths.secrets, *(self.paths.out / tier for tier in tiers)):
            shutil.rmtree(directory)
            directory.mkdir()

    def restore(self, document_of: Run, *, has_data: bool = True) -> dict[str, object]:
        host, settings = Host(has_data=has_data), self.paths.out / "ops" / "ops.json"
        return document_of(
            lambda request: restore_secrets.restore(
                self.env_file, settings, self.paths, request, host=host
            )
        )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(restore_secrets, "resolve", lambda *_: ())
    return Site(tmp_path)


def test_all_is_written_back_and_the_way_to_a_new_ca_is_named(site: Site, document_of: Run) -> None:
    site.lose()
    document = site.restore(document_of)
    assert document["exit_code"] == Exit.OK
    del site.before["ca.key"]
    assert site.kept() == site.before
    assert document["restored"] == sorted(site.before)
    assert document["made"] == []
    assert "make rotate-certificates CA=yes" in str(document["state"])


@pytest.mark.parametrize("has_data", [True, False])
def test_nothing_is_done_where_nothing_is_lost(
    site: Site, document_of: Run, has_data: bool
) -> None:
    document = site.restore(document_of, has_data=has_data)
    assert document["exit_code"] == Exit.REFUSED
    assert site.kept() == site.before


def test_nothing_is_made_before_the_first_start(site: Site, document_of: Run) -> None:
    site.lose("postgres", "pgbouncer", "app", "ops")
    assert site.restore(document_of, has_data=False)["exit_code"] == Exit.REFUSED
    assert site.kept() == {}


def test_a_password_that_is_there_stays_as_it_is(site: Site, document_of: Run) -> None:
    (site.paths.secrets / "risk_api.password").unlink()
    document = site.restore(document_of)
    assert document["restored"] == ["risk_api.password"]
    assert site.kept() == site.before


def test_what_no_file_holds_is_made_anew(site: Site, document_of: Run) -> None:
    site.lose("ops")
    document = site.restore(document_of)
    anew = {"sluice_monitor", "sluice_operator"}
    made = {f"{role}.{kind}" for role in anew for kind in ("password", "scram")}
    assert set(document["made"]) == made  # type: ignore[call-overload]
    assert (site.paths.out / "ops" / "operator.password").read_bytes() == (
        site.kept()["sluice_operator.password"]
    )


def test_a_pair_that_no_file_holds_takes_a_new_ca(site: Site, document_of: Run) -> None:
    site.lose("app")
    document = site.restore(document_of)
    assert set(document["made"]) >= CERTIFICATES  # type: ignore[call-overload]
    assert "CA=yes" not in str(document["state"])
    _compiles_to_what_is_there(site)


def test_certificates_that_have_expired_take_a_new_ca_where_files_are_gone(
    site: Site, document_of: Run
) -> None:
    site.lose("postgres", "pgbouncer", "app", "ops")
    site.compile(datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400))
    site.lose("ops")
    document = site.restore(document_of)
    assert document["exit_code"] == Exit.OK
    assert set(document["made"]) >= CERTIFICATES  # type: ignore[call-overload]
    _compiles_to_what_is_there(site)


def test_all_is_made_anew_for_a_database_that_is_left_alone(site: Site, document_of: Run) -> None:
    site.lose("postgres", "pgbouncer", "app", "ops")
    document = site.restore(document_of)
    assert document["exit_code"] == Exit.OK
    assert document["restored"] == []
    assert set(document["made"]) == {*recovery.recoverable(site.paths.out), "ca.key"}  # type: ignore[call-overload]
    assert all(site.kept()[name] != site.before[name] for name in PASSWORDS)
    _compiles_to_what_is_there(site)


def test_a_supplied_ca_is_never_replaced(
    site: Site, document_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "ORGANIZATION", "somebody else")
    site.lose("app")
    document = site.restore(document_of)
    assert document["exit_code"] == Exit.BAD_INPUT
    assert "there is no ca.key to make it" in str(document["faults"])
    assert site.kept() == {}


def _compiles_to_what_is_there(site: Site) -> None:
    again = build.compile_values(
        catalogue.defaults(), site.paths.secrets, now=datetime.datetime.now(datetime.UTC)
    )
    assert not again.new_secrets
    assert all((site.paths.out / one.path).read_bytes() == one.content for one in again.files)
