"""Secrets that are gone while their compiled files remain: refused, and read back."""

import datetime
import os
import shutil
from pathlib import Path

import pytest

from infra.config import catalogue, recovery, write
from infra.config.__main__ import main
from infra.config.build import compile_values
from infra.config.certificates import ALSO_TRUSTED
from infra.config.host import Host
from infra.config.secrets import TOKENS
from infra.ops import plan
from infra.ops.outcome import Exit
from tests.unit.infra.support import PASSWORDS, write_env

Files = dict[str, bytes]


class Site:
    """What a start has left: secrets, and the files that were compiled with them."""

    def __init__(self, root: Path) -> None:
        self.env_dir, self.secrets, self.out = root, root / "secrets", root / "out"
        write_env(root)

    def compile(self) -> int:
        """Compile as `config` does; return its exit code."""
        return main([f"--env-dir={self.env_dir}", f"--out={self.out}", f"--secrets={self.secrets}"])

    def kept(self) -> Files:
        return {path.name: path.read_bytes() for path in self.secrets.iterdir()}

    def empty(self) -> None:
        shutil.rmtree(self.secrets)
        self.secrets.mkdir()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return the files of a first start."""
    monkeypatch.setattr(os, "chown", lambda *_: None)
    made = Site(tmp_path)
    assert made.compile() == 0
    return made


def test_all_but_the_key_of_the_ca_is_read_back_byte_for_byte(site: Site) -> None:
    before = site.kept()
    site.empty()
    found = recovery.recover(site.secrets, site.out)
    assert found == {name: content for name, content in before.items() if name != "ca.key"}
    assert set(found) == set(recovery.recoverable(site.out))


def test_what_was_read_back_compiles_to_the_same_files(site: Site) -> None:
    site.empty()
    write.write_secrets(recovery.recover(site.secrets, site.out), site.secrets)
    again = compile_values(
        catalogue.defaults(), site.secrets, now=datetime.datetime.now(datetime.UTC)
    )
    assert not again.new_secrets
    assert {one.path: one.content for one in again.files} == {
        str(path.relative_to(site.out)): path.read_bytes()
        for path in site.out.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("tier", "gone"),
    [
        ("postgres", {"postgres.crt", "postgres.key", "risk_owner.scram"}),
        ("pgbouncer", {"pgbouncer.crt", "pgbouncer.key"}),
        ("ops", {"sluice_monitor.password", "sluice_operator.password"}),
    ],
)
def test_what_other_tiers_hold_is_read_back_without_one(
    site: Site, tier: str, gone: set[str]
) -> None:
    before = site.kept()
    site.empty()
    shutil.rmtree(site.out / tier)
    found = recovery.recover(site.secrets, site.out)
    assert set(recovery.recoverable(site.out)) - set(found) == gone
    assert all(before[name] == content for name, content in found.items())


def test_a_secret_that_is_there_is_not_read_back(site: Site) -> None:
    site.empty()
    (site.secrets / "risk_api.password").write_bytes(b"another-password-that-is-there")
    assert "risk_api.password" not in recovery.recover(site.secrets, site.out)


def test_both_cas_are_read_back_while_one_replaces_the_other(site: Site) -> None:
    before = (site.secrets / "ca.crt").read_bytes()
    for copy in site.out.glob("*/ca.crt"):
        copy.chmod(0o600)
        copy.write_bytes(before + before)
    site.empty()
    found = recovery.recover(site.secrets, site.out)
    assert (found["ca.crt"], found[ALSO_TRUSTED]) == (before, before)


@pytest.mark.parametrize("name", [*PASSWORDS, *TOKENS, "ca.crt"])
def test_config_refuses_to_make_a_lost_secret_anew(
    site: Site, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (site.secrets / name).unlink()
    before = site.kept()
    assert site.compile() == Exit.BAD_INPUT
    assert site.kept() == before
    told = f"1 secrets that the compiled files were made of are gone ({name}): the volume was lost"
    said = f"{site.secrets}: {told} or emptied; write them back: make restore-secrets\n"
    assert said in capsys.readouterr().err


def test_a_pair_that_was_removed_is_made_anew(site: Site) -> None:
    for kind in ("crt", "key"):
        (site.secrets / f"pgbouncer.{kind}").unlink()
    assert site.compile() == 0
    assert (site.secrets / "pgbouncer.crt").exists()


def test_plan_refuses_where_all_secrets_are_lost(site: Site) -> None:
    site.empty()
    made = _plan(site)
    (fault,) = made.faults
    assert "9 secrets that the compiled files were made of are gone" in str(fault)
    assert str(fault).endswith("make restore-secrets")


def test_a_database_without_secrets_and_files_is_refused_where_the_host_tells_of_it(
    site: Site,
) -> None:
    site.empty()
    shutil.rmtree(site.out)
    assert _plan(site).faults == ()
    assert _plan(site, Host(has_data=False)).faults == ()
    (fault,) = _plan(site, Host(has_data=True)).faults
    assert "there is a database" in str(fault)
    assert str(fault).endswith("make restore-secrets")


def _plan(site: Site, host: Host | None = None) -> plan.Plan:
    compiled = site.out / "ops" / "compiled.json"
    return plan.make(site.env_dir / "stack.env", compiled, None, site.secrets, host, out=site.out)
