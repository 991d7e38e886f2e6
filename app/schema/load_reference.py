"""Loads real reference data from a CSV file: everything, or nothing and the reasons why.

A direct connection as the owner of schema reference; one transaction. The table's own
catalog entry says what a row must satisfy, so a new column or rule needs no change here.

Rows are upserted by primary key: a key that is there gets the file's values (of the
columns in the header), a new key is added, other rows stay. With `replace`, rows whose key
is not in the file are removed, and with a grid cell whatever refers to it.

The order of a first load is grid_cells, then the others in any order. Afterwards
reference.grid says 'loaded', and the synthetic generator leaves the data alone.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from app.pool import ConnectionSettings
from app.pool.connection import driver_arguments, read_password
from app.schema.reference_checks import (
    INCOMING,
    LINE,
    TYPED,
    Database,
    Query,
    Table,
    checks,
    count_faults,
    create_staging,
    read_faults,
    read_table,
)
from app.schema.reference_csv import (
    REASON_MAX_CHARACTERS,
    SHOWN_MAX_CHARACTERS,
    Fault,
    ReferenceFile,
    ReferenceFileError,
    printable,
)

# Exit codes, as every operator command has them.
OK, FAILED, BAD_INPUT, REFUSED = range(4)
APPLICATION_NAME = "sluice-load"
NOTHING_LOADED = "nothing was loaded"
NOT_KNOWN = "it is not known whether the file was loaded; to load it again does no harm"
COMMITTING = "committing"
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


@dataclass(slots=True)
class LoadOutcome:
    """What came of a load, as `--json` prints it.

    `faults` say why the exit code is not 0, `steps` what was done in which order, `state` what
    holds now; `bad_values` are the faults of rows, field by field.
    """

    exit_code: int = OK
    faults: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    state: str = ""
    table: str = ""
    file: str = ""
    rows_loaded: int = 0
    rows_removed: int = 0
    rows_left: int = 0
    fault_count: int = 0
    bad_values: list[dict[str, object]] = field(default_factory=list)


def run(
    table: str,
    path: Path,
    connection: ConnectionSettings,
    *,
    replace: bool = False,
    as_json: bool = False,
) -> int:
    """Load a file into a table of schema reference, print what came of it; return the exit code.

    Each bad row is a line `file:line: column NAME: value 'x': reason`, the first 50 of them.
    """
    outcome = LoadOutcome(table=table, file=str(path))
    progress = _Progress(outcome.steps, path)
    try:
        loaded = load_reference(
            table,
            path,
            dataclasses.replace(connection, application_name=APPLICATION_NAME),
            say=progress.say,
            on_read=progress.on_read,
            replace=replace,
        )
    except RefusedError as refused:
        _refuse(outcome, path, refused)
    except ReferenceFileError as error:
        _fail(outcome, BAD_INPUT, *str(error).splitlines())
    except OSError as error:
        # The file that was given, or the owner's password.
        where = str(error.filename or path)
        code = BAD_INPUT if where == str(path) else FAILED
        rule = "; it must be readable for everyone" if isinstance(error, PermissionError) else ""
        _fail(outcome, code, f"{where}: cannot be read: {error.strerror or error}{rule}")
    except psycopg.errors.LockNotAvailable:
        fault = f"{table}: another load or a migration has a table it needs; try again then"
        _fail(outcome, REFUSED, fault)
    except psycopg.Error as error:
        _fail(outcome, FAILED, f"{table}: the database says: {str(error).strip()}")
        if outcome.steps[-1:] == [COMMITTING] and (error.sqlstate or "57").startswith("57"):
            outcome.state = NOT_KNOWN
    except KeyboardInterrupt:
        _fail(outcome, FAILED, f"{table}: ended by SIGINT")
        if outcome.steps[-1:] == [COMMITTING]:
            outcome.state = NOT_KNOWN
    else:
        _succeed(outcome, loaded)
    return report(outcome, as_json=as_json)


def load_reference(
    table: str,
    path: Path,
    connection: ConnectionSettings,
    *,
    say: Callable[[str], None],
    on_read: Callable[[int], None],
    replace: bool = False,
) -> Loaded:
    """Load one file into one table of schema reference.

    `connection` is the owner's, straight to PostgreSQL. `say` gets a line for each long step,
    `on_read` the size of each piece of the file.

    Raises:
        RefusedError: rows are bad; it has the first 50 and the number of all.
        ReferenceFileError: the file or its header cannot be used, or there is no such table.
        OSError: the file, or the password's, cannot be read.
        psycopg.Error: the database did not take it; where the answer to COMMIT was lost, it may
            have: loading the same file again does no harm.
        In each other case nothing was changed.

    """
    arguments = driver_arguments(connection) | {"password": read_password(connection)}
    with path.open("rb") as stream, closing(psycopg.connect(**arguments)) as database:
        database.execute(SESSION_SETTINGS)
        return _load(database, table, ReferenceFile(path, stream, on_read), say, replace=replace)


def _load(
    connection: Database,
    name: str,
    file: ReferenceFile,
    say: Callable[[str], None],
    *,
    replace: bool,
) -> Loaded:
    with connection.transaction():
        table = read_table(connection, name)
        # One load at a time; readers go on.
        connection.execute(
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier)
        )
        say(f"reading {file.path.name}")
        header = file.header(table.header_columns())
        staged = _stage(connection, table, file, header)
        say(f"checking {staged} rows")
        _check(connection, file, checks(table, header, replace=replace))
        if not staged:
            raise ReferenceFileError(f"{file.path}: has a header and no rows")
        say(f"writing {name}")
        removed = _remove_others(connection, table) if replace else 0
        _upsert(connection, table, header)
        connection.execute("SELECT reference.mark_loaded(%s)", (name,))
        left = _rows_left(connection, table) if not replace else 0
        connection.execute(sql.SQL("ANALYZE {}").format(table.identifier))
        # From here on a failure may come after the server has it.
        say(COMMITTING)
    return Loaded(staged, removed, left)


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


def _check(connection: Database, file: ReferenceFile, to_run: Iterable[Query]) -> None:
    """Run all checks; raise RefusedError with the faults of the text and of the values."""
    for statement in to_run:
        connection.execute(statement)
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


def report(outcome: LoadOutcome, *, as_json: bool) -> int:
    """Print the outcome, as the one JSON document or as lines; return its exit code."""
    if as_json:
        sys.stdout.write(json.dumps(asdict(outcome), indent=2) + "\n")
        return outcome.exit_code
    for fault in outcome.faults:
        sys.stderr.write(f"{fault}\n")
    if outcome.state:
        (sys.stderr if outcome.faults else sys.stdout).write(f"{outcome.state}\n")
    return outcome.exit_code


class _Progress:
    """Prints each step to standard error; on a terminal also how much of the file is read."""

    def __init__(self, steps: list[str], path: Path) -> None:
        self._steps = steps
        self._path = path
        self._live = sys.stderr.isatty()
        self._read = self._shown = 0

    def say(self, line: str) -> None:
        """Note a step."""
        self._steps.append(line)
        sys.stderr.write(f"{line}\n")

    def on_read(self, size: int) -> None:
        """Note a piece of the file that was read."""
        self._read += size
        if not self._live:
            return
        percent = 100 * self._read // max(1, self._path.stat().st_size)
        if percent != self._shown:
            self._shown = percent
            sys.stderr.write(f"\r{percent} %" + ("\n" if percent >= 100 else ""))
            sys.stderr.flush()


def _succeed(outcome: LoadOutcome, loaded: Loaded) -> None:
    outcome.rows_loaded, outcome.rows_removed = loaded.rows, loaded.removed
    outcome.rows_left = loaded.left
    outcome.state = f"reference.{outcome.table}: {loaded.rows} rows loaded"
    if loaded.removed:
        outcome.state += f", {loaded.removed} others removed with what referred to them"
    if loaded.left:
        outcome.state += (
            f"; {loaded.left} earlier rows stay, which may be synthetic (REPLACE=yes removes them)"
        )


def _refuse(outcome: LoadOutcome, path: Path, refused: RefusedError) -> None:
    lines = [fault.text(path) for fault in refused.faults]
    if refused.total > len(lines):
        lines.append(f"{path}: and {refused.total - len(lines)} more")
    _fail(outcome, BAD_INPUT, *lines)
    outcome.state = f"{path}: {refused.total} faults; {NOTHING_LOADED}"
    outcome.fault_count = refused.total
    outcome.bad_values = [_bad_value(fault) for fault in refused.faults]


def _bad_value(fault: Fault) -> dict[str, object]:
    value = fault.value
    return {
        "line": fault.line,
        "column": fault.column or None,
        "value": None if value is None else printable(value, SHOWN_MAX_CHARACTERS),
        "reason": printable(fault.reason, REASON_MAX_CHARACTERS),
    }


def _fail(outcome: LoadOutcome, code: int, *faults: str) -> None:
    outcome.exit_code, outcome.state = code, NOTHING_LOADED
    outcome.faults += faults
    outcome.fault_count = len(outcome.faults)
