"""SQL as the superuser inside the PostgreSQL container, and PgBouncer's admin console."""

from __future__ import annotations

import csv
import io

import pytest
from docker.models.containers import Container

from infra.config.names import INSTANCES
from tests.fix_stack import Stack, run_in

Row = dict[str, str]


def run_psql(container: Container, arguments: list[str], statement: str) -> list[Row]:
    """Run one statement with psql in the container and return its rows as text."""
    command = ["psql", "--no-psqlrc", "--csv", "--set=ON_ERROR_STOP=1", *arguments]
    code, text = run_in(container, [*command, "--command", statement])
    assert code == 0, f"psql: {text}"
    return list(csv.DictReader(io.StringIO(text)))


class Sql:
    """Queries PostgreSQL directly, around the pool: the tests' independent witness."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def rows(self, statement: str, *, database: str = "risk") -> list[Row]:
        """Return the statement's rows as text by column name."""
        arguments = ["--username=postgres", f"--dbname={database}"]
        return run_psql(self._server(), arguments, statement)

    def _server(self) -> Container:
        """Return the server's container, of three the primary's."""
        instances = [one for name in INSTANCES for one in self._stack.containers(name)]
        for one in instances:
            (row,) = run_psql(one, ["--dbname=postgres"], "SELECT pg_is_in_recovery() AS standby")
            if row["standby"] == "f":
                return one
        return self._stack.container("postgres")

    def value(self, statement: str, *, database: str = "risk") -> str:
        """Return the single value of a statement."""
        (row,) = self.rows(statement, database=database)
        (value,) = row.values()
        return value


class AdminConsole:
    """PgBouncer's admin console over the Unix socket, as the process's own user."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def show(self, what: str, *, replica: int = 0) -> list[Row]:
        """Return the rows of ``SHOW what`` on one replica."""
        return self.command(f"SHOW {what}", replica=replica)

    def on_all(self, statement: str) -> None:
        """Run a statement of the console on every replica."""
        for replica in range(len(self._stack.containers("pgbouncer"))):
            self.command(statement, replica=replica)

    def command(self, statement: str, *, replica: int = 0) -> list[Row]:
        """Run any statement of the console on one replica and return its rows."""
        container = self._stack.containers("pgbouncer")[replica]
        arguments = ["--host=/run/pgbouncer", "--port=6432", "--username=pgbouncer", "pgbouncer"]
        return run_psql(container, arguments, statement)


@pytest.fixture(scope="session")
def sql(stack: Stack) -> Sql:
    """Return the superuser's queries."""
    return Sql(stack)


@pytest.fixture(scope="session")
def console(stack: Stack) -> AdminConsole:
    """Return PgBouncer's admin console."""
    return AdminConsole(stack)
