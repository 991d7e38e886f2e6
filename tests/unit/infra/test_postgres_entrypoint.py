"""PostgreSQL's entrypoint, with programs in the place of the server's: whose data are kept."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.infra.support import REPOSITORY

# As pg_controldata of version 17 prints it, in its words.
CONTROL = """#!/bin/sh
echo "Latest checkpoint's TimeLineID:       {own}"
echo "Latest checkpoint's PrevTimeLineID:   9"
echo "Min recovery ending loc's timeline:   {recovered}"
"""


@dataclass
class Instance:
    """An instance with data of another set of three; the functions of the script run on them."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "volume" / "17"

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def run(
        self, name: str, function: str = "belong_to_cluster"
    ) -> subprocess.CompletedProcess[str]:
        script = (REPOSITORY / "infra/postgres/entrypoint.sh").read_text()
        script = script.removesuffix('_main "$@"\n').replace("/etc/sluice", str(self.folder))
        return subprocess.run(
            ["bash", "-c", f"{script}\nPATRONI_NAME={name}\n{function}"],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}", "PGDATA": str(self.data)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    made = Instance(tmp_path)
    made.data.mkdir(parents=True)
    (made.data / "PG_VERSION").write_text("17\n")
    (tmp_path / "postgres-cluster.id").write_text("new")
    (made.data.parent / "cluster.id").write_text("old")
    made.program("pg_controldata", CONTROL.format(own=2, recovered=3))
    made.program("python3", "#!/bin/sh\ncat >/dev/null\necho 3\n")
    return made


def test_a_standby_puts_data_of_another_set_aside(instance: Instance) -> None:
    before = instance.data.with_name("17.before")
    (before / "older").mkdir(parents=True)
    done = instance.run("postgres-2")
    assert done.returncode == 0, done.stderr
    assert not instance.data.exists()
    assert [path.name for path in before.iterdir()] == ["PG_VERSION"]
    assert (instance.data.parent / "cluster.id").read_text() == "new"


def test_a_standby_keeps_data_of_the_same_set(instance: Instance) -> None:
    (instance.data.parent / "cluster.id").write_text("new")
    assert instance.run("postgres-3").returncode == 0
    assert (instance.data / "PG_VERSION").exists()


def test_a_standby_on_a_later_timeline_than_the_primary_is_refused(instance: Instance) -> None:
    instance.program("python3", "#!/bin/sh\ncat >/dev/null\necho 2\n")
    done = instance.run("postgres-2")
    assert done.returncode == 1
    assert "is on a later timeline than postgres-1; nothing is changed" in done.stderr
    assert (instance.data / "PG_VERSION").exists()
    assert (instance.data.parent / "cluster.id").read_text() == "old"
    headings = (REPOSITORY / "docs/high-availability.md").read_text().splitlines()
    assert "See docs/high-availability.md, Data of another set" in done.stderr
    assert "### Data of another set" in headings


def test_no_server_starts_where_the_data_are_only_not_in_their_place(instance: Instance) -> None:
    restored = instance.data.with_name("17.restored")
    restored.mkdir()
    assert instance.run("postgres-1", "require_exchanged").returncode == 0
    instance.data.rename(instance.data.with_name("17.before"))
    done = instance.run("postgres-1", "require_exchanged")
    assert done.returncode == 1
    assert f"rename one of them to {instance.data}" in done.stderr
