"""Loads real reference data from a CSV file: everything, or nothing and the reasons why.

A direct connection as the owner of schema reference; one transaction. The table's own
catalog entry says what a row must satisfy, so a new column or rule needs no change here.

Rows are upserted by primary key: a key that is there gets the file's values (of the
columns in the header), a new key is added, other rows stay. With `replace`, rows whose key
is not in the file are removed, and with a grid cell whatever refers to it.

The order of a first load is grid_cells, then the others in any order. Afterwards
reference.grid says 'loaded', and the synthetic generator leaves the data alone.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from infra.ops.reference_catalog import Database, Table, read_table
from infra.ops.reference_checks import (
    INCOMING,
    LINE,
    TYPED,
    Check,
    checks,
    count_faults,
    create_staging,
    read_faults,
)
from infra.ops.reference_csv import Fault, ReferenceFile, ReferenceFileError

FAULTS_SHOWN_MAX = 50

# The role's limits suit requests; a load may take minutes. Waiting for another load's
# lock stays bounded.
SESSION_SETTINGS = """
SET statement_timeout = 0;
SET transaction_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET lock_timeout = '10s';
SET jit = off;
SET work_mem = '64MB';
"""


class RefusedError(Exception):
    """Rows of the file are bad; nothing was loaded."""

    def __init__(self, faults: list[Fault], total: int) -> None:
        super().__init__(f"{total} faults")
        self.faults = faults
        self.total = total


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows of the file that are in the table now, others that went, and others that stay."""

    rows: int
    removed: int
    left: int


@dataclass(frozen=True, slots=True)
class Telling:
    """Where progress goes: a line for each long step, and a bar where somebody watches."""

    say: Callable[[str], None]
    console: Console


def load_reference(
    table: str,
    path: Path,
    *,
    conninfo: str | Mapping[str, Any],
    telling: Telling,
    replace: bool = False,
) -> Loaded:
    """Load one file into one table of schema reference.

    `conninfo` is a libpq string or a mapping of its parameters.

    Raises:
        RefusedError: rows are bad; it has the first 50 and the number of all.
        ReferenceFileError: the file or its header cannot be used, or there is no such table.
        OSError: the file cannot be read.
        psycopg.Error: the database did not take it.
        In each case nothing was changed.

    """
    with closing(_connect(conninfo)) as connection:
        return _load(connection, table, path, telling, replace=replace)


def _connect(conninfo: str | Mapping[str, Any]) -> Database:
    if isinstance(conninfo, str):
        connection = psycopg.connect(conninfo, autocommit=True)
    else:
        connection = psycopg.connect(**{**conninfo, "autocommit": True})
    connection.execute(SESSION_SETTINGS)
    return connection


def _load(
    connection: Database, name: str, path: Path, telling: Telling, *, replace: bool
) -> Loaded:
    console = telling.console
    with path.open("rb") as stream, _progress(console) as progress, connection.transaction():
        table = read_table(connection, name)
        # One load at a time; readers go on.
        connection.execute(
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier)
        )
        telling.say(f"reading {path.name}")
        step = progress.add_task(f"reading {path.name}", total=path.stat().st_size or None)
        file = ReferenceFile(path, stream, lambda count: progress.advance(step, count))
        header = file.header(table.header_columns())
        staged = _stage(connection, table, file, header)
        telling.say(f"checking {staged} rows")
        _check(connection, file, progress, checks(table, header, replace=replace))
        if not staged:
            raise ReferenceFileError(f"{path}: has a header and no rows")
        telling.say(f"writing {name}")
        step = progress.add_task(f"writing {name}", total=None)
        removed = _remove_others(connection, table) if replace else 0
        _upsert(connection, table, header)
        connection.execute("SELECT reference.mark_loaded(%s)", (name,))
        left = _rows_left(connection, table) if not replace else 0
    connection.execute(sql.SQL("ANALYZE {}").format(table.identifier))
    return Loaded(staged, removed, left)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _stage(connection: Database, table: Table, file: ReferenceFile, header: list[str]) -> int:
    """Copy the file's text into `incoming`; return the number of rows."""
    create_staging(connection, table, header)
    copied = 0
    columns = sql.SQL(", ").join(map(sql.Identifier, header))
    query = sql.SQL("COPY {} ({}, {}) FROM STDIN").format(INCOMING, LINE, columns)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for line, fields in file.records(len(header)):
            copy.write_row((line, *fields))
            copied += 1
    return copied


def _check(
    connection: Database,
    file: ReferenceFile,
    progress: Progress,
    to_run: Iterable[Check],
) -> None:
    """Run all checks; raise RefusedError with the faults of the text and of the values."""
    for what, statement in to_run:
        step = progress.add_task(f"checking {what}", total=None)
        connection.execute(statement)
        progress.remove_task(step)
    total = file.faults.total + count_faults(connection)
    if total:
        faults = [*file.faults.kept, *read_faults(connection, FAULTS_SHOWN_MAX)]
        faults.sort(key=lambda fault: fault.line)
        raise RefusedError(faults[:FAULTS_SHOWN_MAX], total)


def _upsert(connection: Database, table: Table, header: list[str]) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, header))
    others = [sql.Identifier(name) for name in header if name not in table.key]
    settings = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in others)
    action = sql.SQL("UPDATE SET {}").format(settings) if others else sql.SQL("NOTHING")
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    query = "INSERT INTO {} ({}) SELECT {} FROM {} ORDER BY {} ON CONFLICT ({}) DO {}"
    connection.execute(
        sql.SQL(query).format(table.identifier, columns, columns, TYPED, key, key, action)
    )


def _remove_others(connection: Database, table: Table) -> int:
    """Delete the rows whose key is not in the file; return how many."""
    query = "DELETE FROM {} AS old WHERE NOT EXISTS (SELECT FROM {} AS new WHERE {})"
    return connection.execute(
        sql.SQL(query).format(table.identifier, TYPED, _same_key(table))
    ).rowcount


def _rows_left(connection: Database, table: Table) -> int:
    """Return how many rows of the table are not from this file."""
    query = "SELECT count(*) FROM {} AS old WHERE NOT EXISTS (SELECT FROM {} AS new WHERE {})"
    row = connection.execute(
        sql.SQL(query).format(table.identifier, TYPED, _same_key(table))
    ).fetchone()
    return int(row[0]) if row else 0


def _same_key(table: Table) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("new", name), sql.Identifier("old", name))
        for name in table.key
    )
