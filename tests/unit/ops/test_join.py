"""What an application is told that joins: its file, where to connect, and its secrets."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.config import write
from infra.config.build import compile_stack
from infra.ops import join
from infra.ops.operation import Paths
from infra.ops.outcome import Exit
from tests.unit.infra.support import NOW, judge, write_env

ROOMY = {"POSTGRES_MAX_CONNECTIONS": 200, "POSTGRES_MEMORY_MB": 4096}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Return where a stack with two applications was compiled, one on the services' database."""
    return compiled(tmp_path)


def compiled(tmp_path: Path, **settings: object) -> Paths:
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "billing.env").write_text("POOL_SIZE=3\nRESERVE_POOL_SIZE=1\n")
    (tmp_path / "clients" / "reports.env").write_text("DATABASE=risk\n")
    found = Paths(tmp_path / "out", tmp_path / "secrets")
    made = compile_stack(write_env(tmp_path, **ROOMY, **settings), found.secrets, now=NOW)
    chown = lambda *_: None  # noqa: E731  # the files' owners need root
    write.write_all(made.new_secrets, found.secrets, made.files, found.out, chown=chown)
    return found


def test_the_file_of_a_new_client_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert join.template("billing", as_json=False) == Exit.OK
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "billing.env").write_text(capsys.readouterr().out)
    found = judge(tmp_path)
    assert (found.faults, found.warnings) == ((), ())
    assert found.values.integer("clients/billing.env:POOL_SIZE") == 2


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert join.template("pg_billing", as_json=False) == Exit.BAD_INPUT
    assert capsys.readouterr().err.startswith("NAME=pg_billing: names that begin with pg_ are")


def test_an_application_is_told_where_it_connects_and_how_much_it_may(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert join.show("billing", paths, "sluice-two", as_json=True) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    tail = "sslmode=verify-full&sslrootcert=/run/secrets/ca.crt"
    assert told["url"] == f"postgresql://billing@pgbouncer:6432/billing?{tail}"
    assert told["migrations"]["url"] == f"postgresql://billing_owner@postgres:5432/billing?{tail}"
    assert (told["network"], told["migrations"]["network"]) == ("sluice-two_pool", "sluice-two_db")
    assert (told["server_connections"], told["client_connections"]) == (2 * (3 + 1), 50)


def test_reads_from_standbys_are_offered_where_there_are_standbys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = compiled(
        tmp_path,
        POSTGRES_INSTANCES=3,
        PGBOUNCER_SERVER_HOP="tls",
        POSTGRES_BACKUP_CONNECTIONS=6,
    )
    join.show("billing", three, "sluice", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["standbys"]["libpq"]["PGDATABASE"] == "billing_ro"
    assert "@pgbouncer:6432/billing_ro?" in told["standbys"]["url"]
    join.show("billing", three, "sluice", as_json=False)
    assert told["standbys"]["url"] in capsys.readouterr().out


def test_an_application_outside_containers_is_told_the_published_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = compiled(tmp_path, PGBOUNCER_PORT=16432)
    join.show("billing", published, "sluice", as_json=True)
    told = json.loads(capsys.readouterr().out)
    tail = "sslmode=verify-full&sslrootcert=DIRECTORY/ca.crt"
    assert told["published"]["url"] == f"postgresql://billing@localhost:16432/billing?{tail}"
    join.show("billing", published, "sluice", as_json=False)
    assert told["published"]["url"] in capsys.readouterr().out


def test_without_the_port_an_application_outside_is_told_how_to_have_it(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    join.show("billing", paths, "sluice", as_json=False)
    assert "add PGBOUNCER_PORT=6432 to stack.env" in capsys.readouterr().out


def test_nobody_is_told_to_migrate_the_services_own_database(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert join.show("reports", paths, "sluice", as_json=True) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["url"].startswith("postgresql://reports@pgbouncer:6432/reports?")
    assert "migrations" not in told
    assert told["secrets"] == ["reports.password"]


def test_what_each_driver_needs_fits_into_80_columns(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    join.show("billing", paths, "sluice", as_json=False)
    drivers = capsys.readouterr().out.partition("\nDrivers:\n")[2]
    assert "  pgjdbc " in drivers
    assert max(map(len, drivers.splitlines())) <= 80


def test_no_line_for_a_person_holds_a_secret(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("billing", "reports"):
        join.show(name, paths, "sluice", as_json=False)
        join.show(name, paths, "sluice", as_json=True)
    said = capsys.readouterr().out
    secrets = [path.read_text() for path in paths.secrets.glob("*.password")]
    assert [one for one in secrets if one in said] == []


def test_its_secrets_come_as_files_that_libpq_takes(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=written))
    assert join.files("billing", paths, as_json=False) == Exit.OK
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        modes = {one.name: one.mode for one in archive.getmembers()}
        password = (paths.secrets / "billing.password").read_bytes()
        pgpass = archive.extractfile("billing.pgpass")
        assert pgpass is not None
        assert pgpass.read() == b"*:*:*:billing:" + password + b"\n"
    kinds = [
        f"{role}.{kind}" for role in ("billing", "billing_owner") for kind in ("password", "pgpass")
    ]
    assert modes == dict.fromkeys(["ca.crt", *kinds], 0o600)


@pytest.mark.parametrize("name", ["orders", "risk_api"])
def test_who_is_no_client_is_refused_with_those_that_are(
    paths: Paths, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert join.show(name, paths, "sluice", as_json=False) == Exit.REFUSED
    assert f"{name} is no client of what was compiled last (there: billing, reports)" in (
        capsys.readouterr().err
    )
