"""Applications join and leave the running path, by a file each; nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.faults import oracle
from tests.faults.load import Load
from tests.fix_clients import Application, MakeApplication, printed
from tests.fix_faults import wait_for_traffic
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import REPOSITORY, Stack, poll

NAME = "notes_app"
# It is told to end.
SECONDS = 180


@pytest.fixture
def application(make_application: MakeApplication) -> Application:
    """Return an application that is not there yet."""
    return make_application(NAME)


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
        running = application.start(
            stack.container("api").attrs["Config"]["Image"],
            ["python", "/app/application.py", NAME, str(SECONDS)],
            app=REPOSITORY / "tests" / "stack" / "probes",
        )
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
        application.secret("stop").touch()
        came = json.loads(printed(running, seconds=SECONDS + 60).splitlines()[-1])
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
