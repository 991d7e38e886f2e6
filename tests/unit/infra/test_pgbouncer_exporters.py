"""An exporter for each PgBouncer replica, with programs in the place of DNS and exporter."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest

from tests import command
from tests.fix_stack import poll
from tests.unit.infra.support import REPOSITORY

SCRIPT = str(REPOSITORY / "infra" / "observability" / "pgbouncer-exporters.sh")
# One line of dns: an address and its name. Without a line there is no such host.
GETENT = """#!/bin/sh
case "$*" in
"ahostsv4 pgbouncer") sed -n 's/^\\([^ ]*\\) .*/\\1 STREAM pgbouncer/p' "{folder}/dns" | grep . ;;
"-s dns hosts "*) grep "^$4 " "{folder}/dns" ;;
*) exit 2 ;;
esac
"""
EXPORTER = """#!/bin/sh
echo "$*" >"{folder}/exporter.$$"
exec sleep 60
"""


@dataclass
class Exporters:
    """The script, its DNS and its exporters."""

    folder: Path
    process: Popen[str] | None = None

    def dns(self, names: dict[str, str]) -> None:
        """Let containers be at these addresses, under these names."""
        new = self.folder / "new"
        new.write_text("".join(f"{address} {name}\n" for address, name in names.items()))
        new.replace(self.folder / "dns")

    def start(self) -> None:
        """Run it."""
        path = f"{self.folder}:{os.environ['PATH']}"
        self.process = command.start(SCRIPT, str(self.folder), env={"PATH": path}, own_group=True)

    def targets(self) -> dict[str, str]:
        """Return the target of each replica, by its label."""
        file = self.folder / "pgbouncer.json"
        found = json.loads(file.read_text()) if file.exists() else []
        return {one["labels"]["replica"]: one["targets"][0] for one in found}

    def await_targets(self, *replicas: str) -> dict[str, str]:
        """Return the targets once they are those of the replicas."""
        wanted = {f"pgbouncer-{one}" for one in replicas}
        poll(lambda: set(self.targets()) == wanted, seconds=20, what=f"targets {replicas}")
        return self.targets()

    def running(self) -> dict[str, int]:
        """Return the process of each exporter that runs, by what it was started with."""
        found = {}
        for file in self.folder.glob("exporter.*"):
            pid = int(file.suffix[1:])
            # A process that has ended, or is about to be reaped, has no words.
            if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                found[file.read_text().strip()] = pid
        return found

    def await_running(self, *addresses: str) -> dict[str, int]:
        """Return what runs once it is an exporter for each address, and no other."""

        def as_wanted() -> bool:
            return sorted(one.rpartition(" host=")[2] for one in self.running()) == sorted(
                addresses
            )

        poll(as_wanted, seconds=20, what=f"exporters of {addresses}")
        return self.running()


@pytest.fixture
def exporters(tmp_path: Path) -> Iterator[Exporters]:
    for name, text in (("getent", GETENT), ("prometheus-pgbouncer-exporter", EXPORTER)):
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    made = Exporters(tmp_path)
    yield made
    if made.process:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


def test_each_replica_has_an_exporter_and_a_target_of_its_own(exporters: Exporters) -> None:
    exporters.dns(
        {
            "172.18.0.4": "x-pgbouncer-12.x_pool",
            "172.18.0.9": "x-pgbouncer-3.x_pool",
            # A container that somebody ran from the service.
            "172.18.0.6": "x-pgbouncer-run-0a1b2c3d4e5f.x_pool",
        }
    )
    exporters.start()
    targets = exporters.await_targets("3", "12")
    assert targets == {
        "pgbouncer-3": "pgbouncer-exporter:9203",
        "pgbouncer-12": "pgbouncer-exporter:9212",
    }
    started = exporters.await_running("172.18.0.4", "172.18.0.9")
    for words in started:
        assert ("9203" in words) == ("172.18.0.9" in words)
        assert "sslmode=verify-ca" in words
        assert "password" not in words
    alive = command.run(SCRIPT, str(exporters.folder), "alive")
    assert alive.exit_code == 0, alive.text


def test_exporters_follow_replicas_that_come_move_and_go(exporters: Exporters) -> None:
    one = {"172.18.0.9": "x-pgbouncer-1.x_pool"}
    exporters.dns(one)
    exporters.start()
    kept = exporters.await_running("172.18.0.9")
    exporters.dns(one | {"172.18.0.4": "x-pgbouncer-2.x_pool"})
    exporters.await_targets("1", "2")
    exporters.dns(one | {"172.18.0.5": "x-pgbouncer-2.x_pool"})
    exporters.await_running("172.18.0.9", "172.18.0.5")
    exporters.dns(one)
    exporters.await_targets("1")
    assert exporters.await_running("172.18.0.9") == kept


def test_an_exporter_that_ended_is_started_again_and_one_without_dns_stays(
    exporters: Exporters,
) -> None:
    exporters.dns({"172.18.0.9": "x-pgbouncer-1.x_pool"})
    exporters.start()
    (before,) = exporters.await_running("172.18.0.9").values()
    os.kill(before, signal.SIGKILL)

    def again() -> bool:
        return [pid for pid in exporters.running().values() if pid != before] != []

    poll(again, seconds=20, what="another exporter")
    exporters.dns({})
    alive = exporters.folder / "alive"
    turn = alive.stat().st_mtime_ns
    poll(lambda: alive.stat().st_mtime_ns > turn, seconds=20, what="it looked again")
    turn = alive.stat().st_mtime_ns
    poll(lambda: alive.stat().st_mtime_ns > turn, seconds=20, what="it looked again")
    exporters.await_targets("1")
    assert len(exporters.running()) == 1
