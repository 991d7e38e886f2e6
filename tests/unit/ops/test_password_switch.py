"""The moment in which passwords change: what is done in which order, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.config.build import Compiled
from infra.config.render import Rendered
from infra.ops.clients.processes import OpsSettings, Target
from infra.ops.operation import Paths
from infra.ops.outcome import FailedError
from infra.ops.rotation import logins, pending, switch
from infra.ops.rotation.switch import Switch
from tests.unit.infra.support import PASSWORDS, VERIFIERS

REPLICAS = tuple(Target(f"pgbouncer-{n}", "pgbouncer", f"10.0.0.{n}", 6432) for n in (1, 2))
SETTINGS = OpsSettings({"users": {"operator": {"password_file": "/none"}}})


class Recorder:
    """Notes what the switch does; `fails` is the step that raises."""

    def __init__(self, fails: str = "") -> None:
        self.steps: list[str] = []
        self._fails = fails

    def note(self, step: str) -> None:
        self.steps.append(step)
        if step == self._fails:
            raise psycopg.OperationalError(f"{step} failed")

    def postgres(self, _settings: OpsSettings) -> AbstractContextManager[Any]:
        recorder = self

        class Postgres:
            def set_role_passwords(
                self, verifiers: Mapping[str, str], *, before_commit: Callable[[], None]
            ) -> None:
                recorder.note("alter roles")
                before_commit()
                assert verifiers
                recorder.note("commit")

        return nullcontext(Postgres())

    def pgbouncer(self, target: Target, _settings: OpsSettings) -> AbstractContextManager[Any]:
        recorder = self

        class PgBouncer:
            def reload(self) -> None:
                recorder.note(f"reload {target.name}")

        return nullcontext(PgBouncer())


def compiled(mark: str) -> Compiled:
    files = tuple(
        Rendered(path, mark.encode(), 0, 0o400)
        for path in ("app/api.password", "pgbouncer/userlist.txt")
    )
    return Compiled(files, {name: mark.encode() for name in (*PASSWORDS, *VERIFIERS)}, ())


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that switches and returns the steps."""

    def run(*, fails: str = "", can_go_back: bool = True) -> list[str]:
        recorder = Recorder(fails)
        monkeypatch.setattr(switch, "PostgresAdmin", recorder.postgres)
        monkeypatch.setattr(switch, "PgBouncerAdmin", recorder.pgbouncer)
        monkeypatch.setattr(logins, "teach", lambda *_: recorder.note("teach"))
        monkeypatch.setattr(
            switch,
            "write_files",
            lambda files, _out: recorder.note(
                "write " + " ".join(f"{file.content.decode()} {file.path}" for file in files)
            ),
        )
        monkeypatch.setattr(
            switch,
            "write_secrets",
            lambda found, _dir: recorder.note(f"keep {next(iter(found.values())).decode()}"),
        )
        sets = [dict.fromkeys((*PASSWORDS, *VERIFIERS), mark) for mark in (b"old", b"new")]
        rotation = pending.begin(tmp_path, "passwords", old=sets[0], new=sets[1])
        back = (lambda: compiled("old")) if can_go_back else None
        paths = Paths(tmp_path / "out", tmp_path)
        try:
            Switch(SETTINGS, paths, rotation, REPLICAS, {}, back).run(compiled("new"))
        except FailedError as error:
            recorder.steps.append(str(error))
        recorder.steps.append("unfinished" if pending.unfinished(tmp_path) else "no record")
        return recorder.steps

    return run


def test_the_files_that_count_at_once_are_written_within_the_transaction(
    switched: Callable[..., list[str]],
) -> None:
    first, *steps = switched()
    assert first == "keep new"
    assert steps[:3] == [
        "write new pgbouncer/userlist.txt",
        "alter roles",
        "write new app/api.password",
    ]
    assert set(steps[3:5]) == {"reload pgbouncer-1", "reload pgbouncer-2"}
    assert steps[5:] == ["commit", "teach", "unfinished"]


def test_a_failure_before_commit_puts_the_old_passwords_back(
    switched: Callable[..., list[str]],
) -> None:
    steps = switched(fails="alter roles")
    assert "commit" not in steps
    assert steps[-6:-2][0] == "keep old"
    assert "write old app/api.password old pgbouncer/userlist.txt" in steps
    assert steps[-2].endswith("alter roles failed; the old passwords are in use")
    assert steps[-1] == "no record"


def test_a_failure_that_cannot_be_undone_says_to_run_it_again(
    switched: Callable[..., list[str]],
) -> None:
    steps = switched(fails="alter roles", can_go_back=False)
    assert "keep old" not in steps
    assert steps[-2].endswith("run it again: make rotate-passwords")
    assert steps[-1] == "unfinished"


def test_a_commit_without_an_answer_is_not_undone(switched: Callable[..., list[str]]) -> None:
    steps = switched(fails="commit")
    assert "keep old" not in steps
    assert steps[-2] == "commit failed; not finished; run it again: make rotate-passwords"
    assert steps[-1] == "unfinished"


def test_a_replica_that_stays_away_leaves_the_record(switched: Callable[..., list[str]]) -> None:
    steps = switched(fails="reload pgbouncer-2")
    assert "commit" not in steps
    assert "pgbouncer-2 (10.0.0.2): reload pgbouncer-2 failed" in steps[-2]
    assert steps[-2].endswith("run it again: make rotate-passwords")
    assert steps[-1] == "unfinished"
