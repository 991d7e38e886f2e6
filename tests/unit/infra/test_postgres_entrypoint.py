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


def test_the_roles_of_a_new_cluster_are_applied_again_once_patroni_is_done(
    instance: Instance,
) -> None:
    instance.program("psql", f"#!/bin/sh\necho ran >>{instance.folder}/psql.log\n")
    (instance.folder / "roles.sql").write_text(
        "ALTER ROLE sluice_replication PASSWORD 'verifier'\n"
    )
    for words in ("roles", "callback on_start primary risk", "callback on_restart primary risk"):
        assert instance.run("postgres-1", f"_main {words}").returncode == 0
    ran = (instance.folder / "psql.log").read_text().splitlines()
    # The roles twice; at each of the two starts the checkpointer is woken too.
    assert len(ran) == 2 + 2


@pytest.fixture
def log(instance: Instance) -> Instance:
    """Return an instance on timeline 26, with a repository that takes whatever it is given."""
    instance.program("pgbackrest", '#!/bin/sh\nfor file; do :; done; echo "pushed $file"\n')
    directory = instance.data / "pg_wal"
    directory.mkdir()
    lines = {
        "00000019": "24\t0/3D0000A0\tno recovery target specified\n",
        "0000001A": "24\t0/3D0000A0\tno recovery target specified\n\n"
        "25\t2/3F0000A0\tno recovery target specified\n",
    }
    for timeline, text in lines.items():
        (directory / f"{timeline}.history").write_text(text)
    return instance


@pytest.mark.parametrize(
    ("file", "is_pushed"),
    [
        # Timeline 24 ended within segment 3D of its first 4 GB, 25 within 3F of its third.
        ("00000018000000000000003C", True),
        ("00000018000000000000003D", False),
        ("00000018000000000000003E", False),
        ("000000180000000100000000", False),
        ("00000019000000000000003F", True),
        ("00000019000000020000003E", True),
        ("00000019000000020000003F", False),
        # Its own timeline, and one that led to none of them.
        ("0000001A000000020000003F", True),
        ("000000170000000000000050", True),
        ("0000001A.history", True),
        ("00000018000000000000003D.partial", True),
        ("00000018000000000000003C.00000028.backup", True),
    ],
)
def test_what_is_left_behind_the_end_of_a_timeline_is_not_archived(
    log: Instance, file: str, is_pushed: bool
) -> None:
    done = log.run("postgres-1", f"archive pg_wal/{file}")
    assert done.returncode == 0, done.stderr
    assert (f"pushed pg_wal/{file}\n" == done.stderr) is is_pushed
    assert ("not archived" in done.stderr) is not is_pushed


def test_everything_is_archived_on_the_first_timeline(log: Instance) -> None:
    for path in (log.data / "pg_wal").iterdir():
        path.unlink()
    done = log.run("postgres-1", "archive pg_wal/000000010000000000000002")
    assert done.stderr == "pushed pg_wal/000000010000000000000002\n"


def test_a_file_that_the_repository_does_not_take_is_offered_again(log: Instance) -> None:
    log.program("pgbackrest", "#!/bin/sh\nexit 45\n")
    assert log.run("postgres-1", "archive pg_wal/0000001A000000020000003F").returncode == 45


@pytest.mark.parametrize(
    ("state", "looks", "code"),
    [("ready", [82, 82, 0], 0), ("ready", [82, 45], 45), ("stopping", [82], 143)],
)
def test_a_push_is_waited_for_but_not_by_a_server_that_ends(
    log: Instance, state: str, looks: list[int], code: int
) -> None:
    (log.data / "postmaster.pid").write_text(f"7\n{log.data}\n{state}\n")
    calls, codes = log.folder / "calls", log.folder / "codes"
    codes.write_text("".join(f"{one}\n" for one in looks))
    log.program(
        "pgbackrest",
        f"#!/bin/sh\necho x >>{calls}\necho said\nexit $(sed -n $(wc -l <{calls})p {codes})\n",
    )
    done = log.run("postgres-1", "archive pg_wal/0000001A000000020000003F")
    assert done.returncode == code
    assert len(calls.read_text().splitlines()) == len(looks)
    assert done.stderr == "said\n"
