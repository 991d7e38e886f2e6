"""Rotations of certificates that are killed, or meet a full disk, at any of their steps.

The files are real; the servers are directories that hold what each has read at its last
reload. A killed run is a process that really ends at one of its system calls.
"""

from __future__ import annotations

import datetime
import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from infra.config import build, catalogue, certificates, issuing, names, write
from infra.config.secrets import STAGED, SecretError
from infra.ops.clients.processes import Target
from infra.ops.operation import Paths, Request
from infra.ops.outcome import Exit, FailedError
from infra.ops.rotation import certificates as rotation
from infra.ops.rotation import handshake, pending
from tests.unit.ops.support import SETTINGS

KILLED = 137
FILES = {
    "postgres": ("postgres/server", "postgres/ca.crt"),
    "pgbouncer": ("pgbouncer/server", "pgbouncer/ca.crt"),
} | {alias: (f"app/{alias}", "app/ca.crt") for alias in names.CONTROL_ALIASES.values()}
# What changes a directory: each is a place to be killed at.
CALLS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync")
NEEDS_ROOM = ("open", "mkdir", "fsync")
REQUIRE_SPACE = pending.require_space


@dataclass(frozen=True)
class Server:
    """One process as the rotation sees it; `directory` holds what it has read."""

    name: str
    directory: Path

    @property
    def target(self) -> Target:
        return Target(self.name, self.name, "192.0.2.1", 1)

    @property
    def secret(self) -> str:
        return self.name

    def shown(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.directory / "crt").read_bytes())

    def certificate(self) -> bytes:
        return self.shown().public_bytes(Encoding.DER)

    def is_trusted_by(self, authorities: bytes) -> bool:
        return any(_is_issued_by(self.shown(), one) for one in _all(authorities))


def _all(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:
        return False
    return True


class Site:
    """A stack of directories: secrets, compiled files, and what each server has read."""

    def __init__(self, root: Path) -> None:
        self.secrets, self.out = root / "secrets", root / "out"
        self.servers = [Server(name, root / "running" / name) for name in FILES]
        self.given = root / "given"
        self.given.mkdir()
        for server in self.servers:
            server.directory.mkdir(parents=True)
        self.start()

    def start(self, *, days_ago: float = 0) -> None:
        """Have everything made anew, at another time; every server has taken it."""
        shutil.rmtree(self.secrets, ignore_errors=True)
        self.compile(now() - datetime.timedelta(days=days_ago))
        self.reload()

    def compile(self, at: datetime.datetime) -> None:
        """Compile as `config` does; servers that run notice nothing."""
        made = build.compile_values(catalogue.defaults(), self.secrets, now=at)
        write.write_all(made.new_secrets, self.secrets, made.files, self.out)

    def reload(self, *_: object) -> None:
        """Have every server read its files; it keeps the old ones where a pair does not fit."""
        for server in self.servers:
            pair, trusted = FILES[server.name]
            crt, key = (self.out / f"{pair}.{kind}" for kind in ("crt", "key"))
            if _fits(crt.read_bytes(), key.read_bytes()):
                (server.directory / "crt").write_bytes(crt.read_bytes())
                (server.directory / "ca").write_bytes((self.out / trusted).read_bytes())

    def give(self, *, days: int = 90) -> None:
        """Have an operator choose a pair of the present CA."""
        ca = issuing.Pair(
            *_parsed(self.secrets / "ca.crt"),
            certificates._parse_key(
                (self.secrets / "ca.key").read_bytes(), _parsed(self.secrets / "ca.crt")[0], ""
            ),
            b"",
        )
        with mock.patch.object(issuing, "ORGANIZATION", "a company"):
            pair = issuing.make_server("pgbouncer", ca, now(), days)
        (self.given / "pgbouncer.crt").write_bytes(pair.certificate_pem)
        (self.given / "pgbouncer.key").write_bytes(pair.key_pem)

    def rotate(self, options: dict[str, Any]) -> int:
        source = self.given if options["given"] else None
        paths, request = Paths(self.out, self.secrets), Request(self.out / "ops", as_json=True)
        due = options.get("due", False)
        return rotation.rotate(SETTINGS, paths, source, request, new_ca=options["ca"], due=due)

    def faults(self) -> list[str]:
        """Return what would fail for a client or a server that connects now."""
        app = (self.out / "app/ca.crt").read_bytes()
        found = [f"app: {one.name}" for one in self.servers if not one.is_trusted_by(app)]
        postgres, pgbouncer = self.servers[:2]
        if not postgres.is_trusted_by((pgbouncer.directory / "ca").read_bytes()):
            found.append("pgbouncer: postgres")
        return found

    def leftovers(self) -> list[str]:
        """Return what no finished run leaves."""
        names = (path.name for root in (self.secrets, self.out) for path in root.rglob("*"))
        rest = (STAGED, "rotation", certificates.ALSO_TRUSTED)
        return [name for name in names if name.endswith((".new", ".gone")) or name in rest]


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _parsed(path: Path) -> tuple[x509.Certificate, bytes]:
    return x509.load_pem_x509_certificate(path.read_bytes()), path.read_bytes()


def _fits(crt: bytes, key: bytes) -> bool:
    try:
        certificates._parse_key(key, x509.load_pem_x509_certificate(crt), "")
    except SecretError:
        return False
    return True


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a stack that serves, and have the rotation see it."""
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(pending, "require_space", lambda *_: None)
    made = Site(tmp_path)
    monkeypatch.setattr(rotation, "require_all", lambda _: ())
    monkeypatch.setattr(rotation, "PostgresAdmin", _Answers)
    monkeypatch.setattr(rotation, "reload", made.reload)
    monkeypatch.setattr(handshake, "everyone", lambda _: tuple(made.servers))
    monkeypatch.setattr(rotation.CertificateRotation, "_replace_connections", lambda _: None)
    return made


class _Answers:
    def __init__(self, _: object) -> None: ...

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ping(self) -> None: ...


def _end(*_: object) -> None:
    os._exit(KILLED)


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(run: Callable[[], int], at: int, happens: Callable[..., None], *names: str) -> int:
    """Run in a process of its own that meets this from its `at`-th call on; return how it ended."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def hooked(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if name != "open" or arguments[1] & os.O_CREAT:
                count += 1
                if count >= at:
                    happens()
            return call(*arguments, **options)

        return counted

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        for name in names:
            setattr(os, name, hooked(getattr(os, name), name))
        os._exit(run())
    finally:
        # Whatever happens: this process must never return into the test runner.
        os._exit(99)


ROTATIONS = {
    "certificates": {"ca": False, "given": False},
    "and CA": {"ca": True, "given": False},
    "given": {"ca": False, "given": True},
}
# How many calls a whole run makes, of CALLS and of NEEDS_ROOM: moments are spread over it.
LENGTHS = {"certificates": (185, 124), "and CA": (418, 285), "given": (185, 124)}


def _moments(kind: str, count: int, length: int) -> list[int]:
    chooser = random.Random(kind)  # noqa: S311  # repeatable, not secret
    return [chooser.randint(1, length) for _ in range(count)]


KILLS = [(kind, at) for kind, (all_, _) in LENGTHS.items() for at in _moments(kind, 20, all_)]
FULL_DISKS = [(kind, at) for kind, (_, few) in LENGTHS.items() for at in _moments(kind, 7, few)]


@pytest.mark.parametrize(("kind", "at"), KILLS)
def test_a_killed_rotation_fails_nobody_and_the_next_run_finishes_it(
    site: Site, kind: str, at: int
) -> None:
    site.give()
    before = site.secrets.joinpath("postgres.crt").read_bytes()
    code = interrupted(lambda: site.rotate(ROTATIONS[kind]), at, _end, *CALLS)
    assert code == KILLED
    assert site.faults() == []
    _second_run(site, kind, before)


@pytest.mark.parametrize(("kind", "at"), FULL_DISKS)
def test_a_full_disk_fails_nobody_and_the_next_run_does_it(site: Site, kind: str, at: int) -> None:
    site.give()
    before = site.secrets.joinpath("postgres.crt").read_bytes()
    code = interrupted(lambda: site.rotate(ROTATIONS[kind]), at, _full, *NEEDS_ROOM)
    assert code == Exit.FAILED
    assert site.faults() == []
    _second_run(site, kind, before)


def test_a_new_ca_that_is_undone_leaves_no_key_where_there_was_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.secrets / "ca.key").unlink()
    before = site.secrets.joinpath("ca.crt").read_bytes()
    reloads = iter([site.reload, _refuse])

    monkeypatch.setattr(rotation, "reload", lambda _: next(reloads, site.reload)())
    assert site.rotate(ROTATIONS["and CA"]) == Exit.FAILED
    assert site.secrets.joinpath("ca.crt").read_bytes() == before
    assert not (site.secrets / "ca.key").exists()
    assert site.faults() == site.leftovers() == []
    assert site.rotate(ROTATIONS["and CA"]) == Exit.OK


@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_rotation_is_refused_where_there_is_no_room_for_all_of_it(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _contents(site)
    monkeypatch.setattr(pending, "require_space", REQUIRE_SPACE)
    few = SimpleNamespace(free=(8 << 20) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
    assert site.rotate(ROTATIONS[kind]) == Exit.REFUSED
    assert "7 MB are free, 8 MB are needed; free space" in capsys.readouterr().out
    assert _contents(site) == before


# From the record being whole to the new pairs being in their place.
@pytest.mark.parametrize("at", [100, 120, 140, 160])
def test_an_unfinished_pair_that_has_become_unusable_is_undone(
    site: Site, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    site.give()
    before = site.secrets.joinpath("postgres.crt").read_bytes()
    code = interrupted(lambda: site.rotate(ROTATIONS["given"]), at, _end, *CALLS)
    assert code == KILLED
    # The time in which it expires.
    site.give(days=0)
    for kind in ("crt", "key"):
        place = site.secrets / "rotation" / "new" / f"pgbouncer.{kind}"
        place.chmod(0o600)
        place.write_bytes((site.given / f"pgbouncer.{kind}").read_bytes())
    assert site.rotate(ROTATIONS["certificates"]) == Exit.OK
    assert "the unfinished rotation is undone" in capsys.readouterr().out
    assert site.faults() == site.leftovers() == []
    assert site.secrets.joinpath("postgres.crt").read_bytes() != before


DUE = {"ca": False, "given": False, "due": True}


def test_nothing_is_rotated_before_it_is_due(site: Site) -> None:
    before = _contents(site)
    assert site.rotate(DUE) == Exit.OK
    assert _contents(site) == before


@pytest.mark.parametrize(("days", "new_ca"), [(340, False), (3640, True)])
def test_what_is_due_is_rotated_with_its_ca_where_that_is(
    site: Site, days: int, new_ca: bool
) -> None:
    site.start(days_ago=days)
    before = site.secrets.joinpath("ca.crt").read_bytes()
    assert site.rotate(DUE) == Exit.OK
    assert site.faults() == site.leftovers() == []
    assert (site.secrets.joinpath("ca.crt").read_bytes() != before) is new_ca
    after = _contents(site)
    assert site.rotate(DUE) == Exit.OK
    assert _contents(site) == after


def test_what_three_instances_had_is_never_due_while_there_is_one(site: Site) -> None:
    site.start(days_ago=340)
    left = {kind: (site.secrets / f"postgres.{kind}").read_bytes() for kind in ("crt", "key")}
    site.start()
    for kind, content in left.items():
        (site.secrets / f"patroni.{kind}").write_bytes(content)
    before = _contents(site)
    assert site.rotate(DUE) == Exit.OK
    assert _contents(site) == before


def test_without_the_key_of_the_ca_what_is_due_is_rotated_with_a_new_one(site: Site) -> None:
    site.start(days_ago=340)
    (site.secrets / "ca.key").unlink()
    assert site.rotate(DUE) == Exit.OK
    assert (site.secrets / "ca.key").exists()
    assert site.faults() == site.leftovers() == []


def test_a_supplied_pair_that_is_due_is_reported_and_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.start(days_ago=340)
    monkeypatch.setattr(issuing, "ORGANIZATION", "somebody else")
    before = _contents(site)
    assert site.rotate(DUE) == Exit.OK
    assert "make rotate-certificates FROM=directory" in capsys.readouterr().out
    assert _contents(site) == before


def test_servers_that_show_an_older_certificate_than_their_file_read_it_again(site: Site) -> None:
    site.start(days_ago=340)
    old = [one.certificate() for one in site.servers]
    site.compile(now())
    before = _contents(site)
    assert [one.certificate() for one in site.servers] == old
    assert site.rotate(DUE) == Exit.OK
    assert _contents(site) == before
    assert all(one.certificate() not in old for one in site.servers)


def _contents(site: Site) -> dict[str, bytes]:
    files = (path for root in (site.secrets, site.out) for path in root.rglob("*"))
    return {
        str(path): path.read_bytes() for path in files if path.is_file() and path.suffix != ".lock"
    }


def _refuse() -> None:
    raise FailedError("pgbouncer-1: does not answer")


def _second_run(site: Site, kind: str, before: bytes) -> None:
    assert site.rotate(ROTATIONS[kind]) == Exit.OK
    assert site.faults() == []
    assert site.leftovers() == []
    assert (site.secrets / "postgres.crt").read_bytes() != before
    if kind == "given":
        shown = site.servers[1].shown()
        assert shown == x509.load_pem_x509_certificate((site.given / "pgbouncer.crt").read_bytes())
    again = build.compile_values(catalogue.defaults(), site.secrets, now=now())
    assert not again.new_secrets
    assert write.write_files(again.files, site.out) == _owned_by_others(again)


def _owned_by_others(compiled: build.Compiled) -> list[str]:
    """Return what looks as if it had to be written only because the test may not give it away."""
    own = (os.geteuid(), os.getegid())
    return [file.path for file in compiled.files if (file.uid, file.gid) != own]
