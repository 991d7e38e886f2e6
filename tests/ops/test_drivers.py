"""Applications with other drivers stay connected while the path is operated."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.command import Done
from tests.fix_clients import CLIENTS, Application, MakeApplication, printed
from tests.fix_faults import hold
from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import Sql
from tests.fix_stack import poll

NAME = "ledger"
TRAFFIC_SECONDS = 30
WORKERS = 8
# What the tables of each application begin with, and what it runs.
DRIVERS = {
    "Django": ("guestbook", ["python", "/app/django_app.py"]),
    "SQLAlchemy": ("sqlalchemy", ["python", "/app/sqlalchemy_app.py"]),
    "psycopg": ("psycopg", ["python", "/app/psycopg_app.py"]),
    "asyncpg": ("asyncpg", ["python", "/app/asyncpg_app.py", "asyncpg", "asking"]),
    "asyncpg, plain": ("plain_asyncpg", ["python", "/app/asyncpg_app.py", "plain_asyncpg"]),
    "node-postgres": ("node", ["node", "/app/node_app.js", "node", "asking"]),
    "node-postgres, plain": ("plain_node", ["node", "/app/node_app.js", "plain_node"]),
    "pgjdbc": ("jdbc", ["java", "-Xmx128m", "/app/JdbcApp.java"]),
}
# Nobody asks a connection before it is lent: a statement can meet the end of its connection.
NOT_ASKING = ("asyncpg, plain", "node-postgres, plain")
RESTART_PGBOUNCER = "restart-pgbouncer"
TABLES = (
    "CREATE TABLE {0}_entry (worker integer, number integer);"
    "CREATE TABLE {0}_total (worker integer PRIMARY KEY, entries integer);"
)
TOTALS = f"INSERT INTO {{}}_total SELECT worker, 0 FROM generate_series(0, {WORKERS - 1}) worker"
PROJECT = """
cd /project
django-admin startproject guestbook .
cat /app/guestbook/settings.py >>guestbook/settings.py
cp /app/django_models.py guestbook/models.py
python manage.py makemigrations guestbook
python manage.py migrate
"""


class Moments:
    """When each operation was done, and which of them an error belongs to."""

    def __init__(self) -> None:
        self._spans: list[tuple[str, float, float]] = []

    @contextmanager
    def of(self, operation: str) -> Iterator[None]:
        """Take the time of an operation, and some seconds after it."""
        began = time.time()
        yield
        hold(3)
        self._spans.append((operation, began, time.time()))

    def find(self, at: float) -> str:
        """Return the operation of a moment."""
        found = (name for name, began, ended in self._spans if began <= at <= ended)
        return next(found, "none")

    @property
    def seconds(self) -> float:
        """Return how long all of them took."""
        return sum(ended - began for _, began, ended in self._spans)


def check_rows(driver: str, record: dict[str, Any], sql: Sql) -> None:
    """Check that what was committed is there once, and nothing else."""
    table, _ = DRIVERS[driver]
    counted = sql.rows(
        f"SELECT worker, number, count(*) AS copies FROM {table}_entry GROUP BY 1, 2", database=NAME
    )
    present = {(int(row["worker"]), int(row["number"])) for row in counted}
    absent, unknown = ({(w, n) for w, n in record[kind]} for kind in ("absent", "unknown"))
    attempted = {(w, n) for w, count in enumerate(record["attempted"]) for n in range(count)}
    assert {row["copies"] for row in counted} == {"1"}, f"{driver}: rows are there twice"
    lost = attempted - absent - unknown - present
    assert not lost, f"{driver}: committed rows are lost: {sorted(lost)[:9]}"
    assert not present - attempted | present & absent, f"{driver}: rows that were not committed"
    total = sql.value(f"SELECT sum(entries) FROM {table}_total", database=NAME)
    assert int(total) == len(present), f"{driver}: half of a transaction is there"


def prepare(application: Application, sql: Sql, image: str, project: Path) -> None:
    """Make the tables of every driver, Django's by its own migrations."""
    made = application.start(
        image,
        ["sh", "-euc", PROJECT],
        app=CLIENTS,
        network="db",
        environment=application.variables(owner=True),
        writable={project: "/project"},
    )
    for table, _ in DRIVERS.values():
        if table != "guestbook":
            sql.rows(f"SET ROLE {NAME}_owner; {TABLES.format(table)}", database=NAME)
    printed(made, seconds=60)
    for table, _ in DRIVERS.values():
        sql.rows(f"SET ROLE {NAME}_owner; {TOTALS.format(table)}", database=NAME)


def wait_for_rows(sql: Sql) -> None:
    """Return once every application has committed some more transactions."""
    for table, _ in DRIVERS.values():
        count = f"SELECT count(*) FROM {table}_entry"
        enough = f"SELECT ({count}) >= {int(sql.value(count, database=NAME)) + 2 * WORKERS}"
        poll(partial(_is_true, sql, enough), seconds=60, what=f"more rows in {table}_entry")


def _is_true(sql: Sql, query: str) -> bool:
    return sql.value(query, database=NAME) == "t"


@pytest.fixture
def put_back(make_application: MakeApplication, env: EnvDir) -> Iterator[None]:
    """Have the stack's own values again when the application is taken away."""
    yield
    env.reset()


def operate(application: Application, ops: Commands, env: EnvDir, moments: Moments) -> None:
    """Do each operation once."""
    with moments.of("restart-postgres"):
        _succeed(application.operate("restart-postgres"))
    # From here on each transaction is followed by a DISCARD ALL, behind prepared statements' backs.
    with moments.of("resize"):
        env.set(PGBOUNCER_SERVER_RESET_QUERY_ALWAYS=1)
        application.set(POOL_SIZE=4, RESERVE_POOL_SIZE=1, MAX_CLIENT_CONNECTIONS=120)
        _succeed(application.apply())
    with moments.of("rotate-passwords"):
        password = application.secret(f"{NAME}.password")
        # As a container has it that has this file mounted.
        with password.open(encoding="ascii") as mounted:
            before = password.read_text(encoding="ascii")
            _succeed(ops.run("rotate", "passwords"))
            application.take_secrets()
            assert mounted.read() == password.read_text(encoding="ascii") != before
    # The new password is of use from here on: every connection is made anew.
    with moments.of(RESTART_PGBOUNCER):
        _succeed(application.operate(RESTART_PGBOUNCER))


def _succeed(done: Done) -> None:
    assert done.exit_code == 0, done.text


@pytest.mark.slow
@pytest.mark.usefixtures("whole_again", "put_back")
def test_operations_lose_no_row_of_any_driver_and_fail_no_statement_where_none_has_to(
    ops: Commands,
    env: EnvDir,
    sql: Sql,
    make_application: MakeApplication,
    drivers_image: str,
    tmp_path: Path,
) -> None:
    application, moments, project = make_application(NAME), Moments(), tmp_path / "project"
    project.mkdir()
    application.set(POOL_SIZE=3, MAX_CLIENT_CONNECTIONS=120)
    _succeed(application.apply())
    application.take_secrets()
    prepare(application, sql, drivers_image, project)
    variables, writable = application.variables(), {project: "/project"}
    running = {
        driver: application.start(
            drivers_image, words, app=CLIENTS, environment=variables, writable=writable
        )
        for driver, (_, words) in DRIVERS.items()
    }
    wait_for_rows(sql)
    operate(application, ops, env, moments)
    hold(TRAFFIC_SECONDS - moments.seconds)
    wait_for_rows(sql)
    application.secret("stop").touch()
    records = {
        driver: json.loads(printed(one, seconds=60).splitlines()[-1])
        for driver, one in running.items()
    }
    unexpected = []
    for driver, record in records.items():
        errors = Counter((moments.find(one["at"]), one["kind"]) for one in record["errors"])
        # With -s: the numbers of docs/clients.md.
        print(f"{driver}: {sum(record['attempted'])} transactions, errors: {dict(errors)}")  # noqa: T201
        check_rows(driver, record, sql)
        may_fail = {RESTART_PGBOUNCER} if driver in NOT_ASKING else set()
        unexpected += [(driver, *error) for error in errors if error[0] not in may_fail]
    assert not unexpected
