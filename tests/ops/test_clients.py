"""Applications join and leave the running path, by a file each; nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from tests.command import Done
from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_faults import wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack, poll

NAME = "notes_app"
SECONDS = 25


class Application:
    """The application: its file in an env directory, its secrets, its processes."""

    def __init__(self, stack: Stack, ops: Commands, env: EnvDir, secrets: Path) -> None:
        self._stack, self._ops, self._env, self._secrets = stack, ops, env, secrets
        self.file = env.path / "clients" / f"{NAME}.env"

    def set(self, **settings: object) -> None:
        """Write its file."""
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def apply(self) -> Done:
        """Apply the env directory, as make does."""
        return self._ops.script("apply", env=self._env)

    def take_secrets(self) -> None:
        """Have its secrets written, as an operator does."""
        done = self._ops.script("client-url", "--to", str(self._secrets), NAME, env=self._env)
        assert done.exit_code == 0, done.text

    def start(self, seconds: float) -> Container:
        """Start a process that uses the path for so long, by the service's own user."""
        image = self._stack.container("api").attrs["Config"]["Image"]
        return self._stack.client.containers.run(
            image,
            ["python", "/app/application.py", NAME, str(seconds)],
            user="0:0",
            network=f"{self._stack.project}_pool",
            volumes={
                str(self._secrets): {"bind": "/run/secrets", "mode": "ro"},
                str(REPOSITORY / "tests" / "stack" / "probes"): {"bind": "/app", "mode": "ro"},
            },
            detach=True,
        )


@pytest.fixture
def application(
    stack: Stack, ops: Commands, env: EnvDir, sql: Sql, tmp_path: Path
) -> Iterator[Application]:
    """Return an application that is not there yet; it and its database go after the test."""
    found = Application(stack, ops, env, tmp_path / "secrets")
    yield found
    found.file.unlink(missing_ok=True)
    done = found.apply()
    assert done.exit_code == 0, done.text
    sql.rows(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
    sql.rows(f"DROP ROLE IF EXISTS {NAME}, {NAME}_owner")


def outcome(container: Container) -> dict[str, Any]:
    """Return what an application's process has printed at its end."""
    try:
        ended = container.wait(timeout=SECONDS + 60)
        text = container.logs(stdout=True, stderr=True).decode()
        assert ended["StatusCode"] == 0, text
        return dict(json.loads(text.splitlines()[-1]))
    finally:
        container.remove(force=True)


def test_an_application_joins_grows_and_leaves_and_nobody_fails(
    stack: Stack,
    console: AdminConsole,
    sql: Sql,
    application: Application,
    make_load: Callable[..., Load],
) -> None:
    with make_load(threads=3) as load:
        wait_for_traffic(load)
        application.set(POOL_SIZE=2, MAX_CLIENT_CONNECTIONS=20)
        joined = application.apply()
        assert joined.exit_code == 0, joined.text
        application.take_secrets()
        sql.rows(
            f"SET ROLE {NAME}_owner; CREATE TABLE notes (thread integer NOT NULL)", database=NAME
        )
        running = application.start(SECONDS)
        poll(lambda: _connected(stack, console), seconds=20, what="the application connects")
        application.set(POOL_SIZE=4, RESERVE_POOL_SIZE=1, MAX_CLIENT_CONNECTIONS=20)
        resized = application.apply()
        assert resized.exit_code == 0, resized.text
        found = _entry(console)
        assert (found["pool_size"], found["reserve_pool_size"]) == ("4", "1")
        application.file.unlink()
        refused = application.apply()
        assert refused.exit_code == 1, refused.text
        assert f"connections of {NAME} are open; stop the application first" in refused.text
        came = outcome(running)
        poll(lambda: not _connected(stack, console), seconds=10, what="the application has left")
        left = application.apply()
        assert left.exit_code == 0, left.text
        assert f"the database {NAME} is kept; to drop it: make psql" in left.text
    assert came["errors"] == []
    assert came["done"] > 50
    assert int(sql.value("SELECT count(*) FROM notes", database=NAME)) == came["done"]
    assert NAME not in {row["name"] for row in console.show("DATABASES")}
    oracle.check_no_failure(load)


def test_a_client_that_cannot_be_carried_changes_nothing(
    application: Application, console: AdminConsole
) -> None:
    application.set(POOL_SIZE=500)
    refused = application.apply()
    assert refused.exit_code == 2, refused.text
    assert f"clients/{NAME}.env:POOL_SIZE=500" in refused.text
    assert NAME not in {row["name"] for row in console.show("DATABASES")}


def _connected(stack: Stack, console: AdminConsole) -> int:
    replicas = range(len(stack.containers("pgbouncer")))
    rows = [row for replica in replicas for row in console.show("CLIENTS", replica=replica)]
    return sum(row["database"] == NAME for row in rows)


def _entry(console: AdminConsole) -> dict[str, str]:
    (found,) = (row for row in console.show("DATABASES") if row["name"] == NAME)
    return found
