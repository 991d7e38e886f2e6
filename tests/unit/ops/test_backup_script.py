"""backup.sh: the key, the repository, and the exchange of the server's data for restored ones."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.infra.support import REPOSITORY
from tests.unit.ops.fake_docker import Docker


def test_the_key_is_put_into_a_volume_that_compose_knows_as_its_own(
    docker: Docker, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    ran = docker.run("backup.sh", "key", "--from", str(given))
    assert ran.exit_code == 0, ran.stderr
    (made,) = [call for call in ran.calls if call.startswith("volume create")]
    project = made.rpartition(" ")[2].removesuffix("_secrets")
    assert f"--label com.docker.compose.project={project} " in made
    assert "--label com.docker.compose.volume=secrets " in made
    (taken,) = [call for call in ran.calls if "infra.backup.key" in call]
    assert not taken.endswith("--replace")
    assert ran.calls.index(made) < ran.calls.index(taken)


def test_a_key_is_printed_only_where_there_are_secrets(docker: Docker) -> None:
    ran = docker.run("backup.sh", "key")
    assert ran.exit_code == 3
    assert "_secrets is not there" in ran.stderr
    assert not any(call.startswith(("volume create", "run")) for call in ran.calls)


@pytest.mark.parametrize("arguments", [("restore", "--json"), ("drill", "--json")])
def test_a_repository_that_is_not_there_is_a_fault_of_the_document(
    docker: Docker, arguments: tuple[str, ...]
) -> None:
    (docker.folder / "stack.env").write_text("BACKUP_DIRECTORY=/nowhere/at/all\n")
    docker.answer("volume ls", stdout="there\n")
    ran = docker.run("backup.sh", *arguments)
    assert (ran.exit_code, ran.document["faults"]) == (
        3,
        ["BACKUP_DIRECTORY=/nowhere/at/all: no such directory"],
    )
    assert not any("/var/lib/pgbackrest" in call for call in ran.calls)


@pytest.mark.parametrize("fails", [False, True])
def test_a_swap_is_one_only_where_the_data_were_exchanged(docker: Docker, fails: bool) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer("volume inspect", stdout="/volumes/one/_data 0\n")
    docker.answer("--entrypoint bash", code=int(fails), stderr="mv: no space left\n")
    docker.answer("restart postgres", stdout="host: restart-postgres\n")
    docker.answer("ps --all --quiet --filter", stdout="")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == int(fails), ran.stderr
    assert ("the server has the restored data" in ran.stderr) is not fails
    assert ("docker volume rm" in ran.stderr) is not fails
    if fails:
        assert "the data could not be exchanged: the server has those" in ran.stderr
    assert "start one" in ran.calls


def test_a_volume_of_another_disk_is_mounted_for_the_exchange(docker: Docker) -> None:
    docker.answer("volume ls", stdout="there\n")
    # Mounted on this path only while a container has it.
    docker.answer("Options}} restored", stdout="/volumes/restored/_data 3\n")
    docker.answer("volume inspect", stdout="/volumes/data/_data 0\n")
    docker.answer("restart postgres", stdout="host: restart-postgres\n")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 0, ran.stderr
    (made,) = [call for call in ran.calls if "--entrypoint bash" in call]
    assert " --volume restored:/volumes/restored " in made
    assert "_postgres-data:/volumes/data " in made


def test_a_swap_whose_restart_was_slow_is_told_and_migrated(docker: Docker) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer("volume inspect", stdout="/volumes/one/_data 0\n")
    docker.answer("restart postgres", code=1, stdout="host: restart-postgres\n")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 1
    assert any("--exit-code-from migrate" in call for call in ran.calls)
    assert "the server has the restored data; those from before are in the volume" in ran.stderr


def test_a_swap_whose_migration_failed_does_not_end_well(docker: Docker) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer("volume inspect", stdout="/volumes/one/_data 0\n")
    docker.answer("restart postgres", stdout="host: restart-postgres\n")
    docker.answer("--exit-code-from migrate", code=1)
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 1
    assert "the migration failed; see: docker compose logs migrate" in ran.stderr
    assert "the server has the restored data" in ran.stderr


def test_a_restore_that_was_ended_is_none(docker: Docker) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer(" restore", code=143)
    ran = docker.run("backup.sh", "restore", "--into", "beside", "--swap")
    assert ran.exit_code == 143
    assert "the volume beside holds nothing whole\n" in ran.stderr
    assert not any("swappable" in call for call in ran.calls)


@pytest.mark.parametrize("code", [2, 3, 125])
def test_a_volume_into_which_nothing_was_put_is_not_called_half_restored(
    docker: Docker, code: int
) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer(" restore", code=code)
    ran = docker.run("backup.sh", "restore", "--into", "beside")
    assert ran.exit_code == code
    assert "nothing whole" not in ran.stderr


def test_a_key_that_is_put_in_while_an_operation_is_under_way_says_so(
    docker: Docker, tmp_path: Path
) -> None:
    docker.answer("run --rm --no-deps config", code=3, stderr="refused: apply is under way\n")
    ran = docker.run("backup.sh", "key", "--from", str(tmp_path))
    assert ran.exit_code == 3
    assert "apply is under way" in ran.stderr
    assert "make plan" not in ran.stderr


@pytest.mark.parametrize("code", [125, 143])
def test_a_drill_that_was_ended_says_nothing_of_the_backups(docker: Docker, code: int) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer("drill-begin", stdout='{"point_seconds": 1.5, "marker": "m"}\n')
    docker.answer(" restore", code=code)
    ran = docker.run("backup.sh", "drill")
    assert ran.exit_code == code
    assert "which says nothing of the backups" in ran.stderr
    assert "recovery time" not in ran.stderr
    assert not any("drill-end" in call for call in ran.calls)


def test_what_a_drill_has_measured_is_told_where_it_cannot_be_written_down(
    docker: Docker,
) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer("drill-begin", stdout='{"point_seconds": 1.5, "marker": "m"}\n')
    measured = {"restore_seconds": 2, "recovery_seconds": 3.5, "check_seconds": 4}
    docker.answer(" restore", stdout=json.dumps({"restored": measured}) + "\n")
    docker.answer("drill-end 1.5 5.5", code=1)
    ran = docker.run("backup.sh", "drill")
    assert ran.exit_code == 1
    assert "recovery point: 1.5 s" in ran.stderr
    assert "recovery time: 5.5 s" in ran.stderr


def test_three_instances_get_another_id_only_with_the_restored_data(docker: Docker) -> None:
    (docker.folder / "stack.env").write_text("POSTGRES_INSTANCES=3\n")
    docker.answer("volume ls", stdout="there\n")
    docker.answer("volume inspect", stdout="/volumes/one/_data 0\n")
    docker.answer("--entrypoint bash", code=1)
    docker.answer("ps --all --quiet --filter", stdout="one\n")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 1
    assert "to go on with the data that are there: make up" in ran.stderr
    assert not any("postgres-cluster.id" in call for call in ran.calls)
    docker.answer("--entrypoint bash")
    docker.answer("--entrypoint rm", code=1, stderr="no space left\n")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 1
    assert "to start: run what failed above, then: make up" in ran.stderr
    assert any("/secrets/postgres-cluster.id" in call for call in ran.calls)
    assert not any(" run --rm --no-deps config" in call for call in ran.calls)


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    made = Exchange(tmp_path)
    for name in ("restored", "data", "data-2", "data-3"):
        (tmp_path / name / "17").mkdir(parents=True)
        (tmp_path / name / "17" / "of").write_text(name)
    (tmp_path / "restored" / "restored.json").touch()
    return made


@dataclass
class Exchange:
    """Four volumes, and the exchange of their data as backup.sh has a container make it."""

    folder: Path

    def run(self, *others: str, fails: str = "", copies: bool = False) -> int:
        """Exchange; a call of mv whose words have this text fails; `copies` as between disks."""
        script = (REPOSITORY / "infra/host/backup.sh").read_text()
        script = script.partition('"$backup_image" -euc \'')[2].partition('\' - "$there"')[0]
        if copies:
            script = script.replace("/volumes/restored", str(self.folder / "restored"))
        program = self.folder / "mv"
        no = f'case "$*" in *{fails}*) exit 1;; esac\n' if fails else ""
        program.write_text(f'#!/bin/sh\n{no}exec /usr/bin/mv "$@"\n')
        program.chmod(0o755)
        volumes = [str(self.folder / one) for one in ("restored", "data", *others)]
        done = subprocess.run(
            ["bash", "-euc", script, "-", *volumes],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}"},
            check=False,
        )
        return done.returncode

    @property
    def holds(self) -> dict[str, str]:
        """Return whose data are where."""
        found = sorted(self.folder.glob("*/17*/of"))
        return {str(one.parent.relative_to(self.folder)): one.read_text() for one in found}


@pytest.mark.parametrize(
    ("fails", "copies"), [("", False), ("--exchange", False), ("--exchange", True)]
)
def test_data_are_exchanged_whole(exchange: Exchange, fails: str, copies: bool) -> None:
    assert exchange.run("data-2", "data-3", fails=fails, copies=copies) == 0
    assert exchange.holds == {
        "data/17": "restored",
        "restored/17": "data",
        "restored/17-2": "data-2",
        "restored/17-3": "data-3",
    }
    assert (exchange.folder / "restored" / "swapped.json").exists()


@pytest.mark.parametrize("copies", [False, True])
def test_an_exchange_that_fails_leaves_all_as_it_was(exchange: Exchange, copies: bool) -> None:
    before = exchange.holds
    program = '--exchange*|*"17.restored "*"data/17"'
    for fails in (program, '--exchange*|*"data/17.before"', '"17-3"'):
        assert exchange.run("data-2", "data-3", fails=fails, copies=copies) == 1
        assert exchange.holds == before
        assert (exchange.folder / "restored" / "restored.json").exists()


def test_data_are_put_where_there_are_none(exchange: Exchange) -> None:
    (exchange.folder / "data" / "17" / "of").unlink()
    (exchange.folder / "data" / "17").rmdir()
    assert exchange.run() == 0
    assert exchange.holds == {"data/17": "restored", "data-2/17": "data-2", "data-3/17": "data-3"}
