"""Bring the database to the newest schema and make sure that it has reference data.

It is idempotent and safe to run twice at once. It connects directly, never through the pooler:
it holds a session lock and changes session settings.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg import sql
from psycopg.rows import TupleRow, class_row

from app.log import Logger, configure_logging, describe, get_logger
from app.pool import ConnectionSettings, Deadline
from app.pool.connection import driver_arguments, read_password
from app.settings import MigrateSettings, SettingsError, load_settings, settings_path

# Any number will do, as long as every migration of this database uses the same.
MIGRATION_LOCK = 7_216_043_905
CONNECT_WAIT_SECONDS = 60.0
CONNECT_PAUSE_SECONDS = 1.0

TABLES = ("grid_cells", "hazard_results", "probability_results", "buildings", "population")

READ_GRID = "SELECT source, step_degrees FROM reference.grid"
COUNT_UNFINISHED = "SELECT count(*) FROM risk.assessments WHERE finished_at IS NULL"

# The role's limits suit requests; a migration may take minutes. Only waiting for
# somebody else's lock stays bounded.
SESSION_SETTINGS = """
SET statement_timeout = 0;
SET transaction_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET lock_timeout = '60s';
"""


class ReferenceInUseError(Exception):
    """The synthetic grid cannot be changed while assessments on the present one are unfinished."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the reference data come from, and the step of their grid in degrees."""

    source: str
    step_degrees: float


def run() -> int:
    """Migrate; return the exit code."""
    log = get_logger("migrate")
    try:
        settings = load_settings(settings_path("migrate"), MigrateSettings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the log level is not known yet
        return 1
    configure_logging("migrate", settings.log.level, settings.log.format)
    try:
        migrate(settings, log)
    except (SettingsError, ReferenceInUseError, psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
        log.error("migration failed", reason=describe(error), kind=type(error).__name__)
        return 1
    return 0


def migrate(settings: MigrateSettings, log: Logger) -> None:
    """Upgrade the schema, then fill schema reference when it needs it.

    Raises psycopg.Error, sqlalchemy DBAPIError, SettingsError or ReferenceInUseError.
    """
    with connect(settings.database, log) as connection, migration_lock(connection):
        upgrade_schema(connection, log)
        ensure_reference(connection, settings.reference.grid_degrees, log)


def connect(settings: ConnectionSettings, log: Logger) -> psycopg.Connection[TupleRow]:
    """Return an autocommit connection, waiting a bounded time for a server that starts."""
    deadline = Deadline.after(CONNECT_WAIT_SECONDS)
    while True:
        try:
            connection = connect_once(settings)
        except psycopg.OperationalError as error:
            if deadline.expired:
                raise
            log.warning("database not reachable yet", reason=describe(error))
            time.sleep(CONNECT_PAUSE_SECONDS)
        else:
            connection.execute(SESSION_SETTINGS)
            return connection


def connect_once(settings: ConnectionSettings) -> psycopg.Connection[TupleRow]:
    """Connect with the same arguments as the service's pools."""
    try:
        password = read_password(settings)
    except OSError as error:
        raise SettingsError(
            f"database.password_file={settings.password_file}: cannot be read ({error.strerror})"
        ) from error
    # Not a standby that was the primary a moment ago.
    arguments = driver_arguments(settings) | {"target_session_attrs": "read-write"}
    return psycopg.connect(**arguments, password=password)


@contextmanager
def migration_lock(connection: psycopg.Connection[TupleRow]) -> Iterator[None]:
    """Let one migration run at a time; the lock ends with the session at the latest."""
    connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


def upgrade_schema(connection: psycopg.Connection[TupleRow], log: Logger) -> None:
    """Run the outstanding migrations, all in one transaction."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS risk")
    before = schema_version(connection)
    connection.autocommit = False
    try:
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: connection,
            poolclass=sqlalchemy.pool.StaticPool,
        )
        with engine.connect() as wrapped:
            command.upgrade(alembic_config(wrapped), "head")
            wrapped.commit()
    finally:
        if not connection.closed:
            connection.rollback()
            connection.autocommit = True
    log.info("schema is up to date", before=before, after=schema_version(connection))


def alembic_config(connection: sqlalchemy.Connection) -> Config:
    """Return Alembic's configuration for this package's scripts and that connection."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def schema_version(connection: psycopg.Connection[TupleRow]) -> str | None:
    """Return the revision the database is at; None for an empty database."""
    exists = connection.execute("SELECT to_regclass('risk.alembic_version')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM risk.alembic_version").fetchone()
    return None if row is None else str(row[0])


def ensure_reference(
    connection: psycopg.Connection[TupleRow],
    grid_degrees: float,
    log: Logger,
) -> None:
    """Make synthetic reference data when there are none, or only those of another step.

    Loaded data are left alone. Raises ReferenceInUseError, psycopg.Error.
    """
    grid = read_grid(connection)
    if grid is not None and grid.source == "loaded":
        log.info("reference data were loaded; left as they are", step_degrees=grid.step_degrees)
        return
    if grid is not None and grid.step_degrees == grid_degrees:
        log.info("synthetic reference data are there", step_degrees=grid_degrees)
        return
    started = time.monotonic()
    with connection.transaction():
        # A submission holds the grid from looking its cells up until its commit; behind
        # this lock every assessment on the present grid can be seen.
        connection.execute("LOCK TABLE reference.grid IN ACCESS EXCLUSIVE MODE")
        if grid is not None:
            refuse_while_unfinished(connection, grid, grid_degrees)
        connection.execute("SELECT reference.synthesize(%s)", (grid_degrees,))
    vacuum(connection)
    log.info(
        "synthetic reference data made; not for decisions about real places",
        step_degrees=grid_degrees,
        seconds=round(time.monotonic() - started, 2),
        rows={table: count_rows(connection, table) for table in TABLES},
    )


def read_grid(connection: psycopg.Connection[TupleRow]) -> Grid | None:
    """Return the grid, or None when schema reference is empty."""
    with connection.cursor(row_factory=class_row(Grid)) as cursor:
        return cursor.execute(READ_GRID).fetchone()


def refuse_while_unfinished(
    connection: psycopg.Connection[TupleRow], grid: Grid, grid_degrees: float
) -> None:
    """Raise ReferenceInUseError when tasks still refer to cells of the present grid."""
    row = connection.execute(COUNT_UNFINISHED).fetchone()
    if row is not None and row[0]:
        raise ReferenceInUseError(
            f"reference.grid_degrees={grid_degrees} differs from {grid.step_degrees} of the "
            f"synthetic data in place, on which {row[0]} assessments are unfinished; set it back, "
            "let them finish, then change it"
        )


def vacuum(connection: psycopg.Connection[TupleRow]) -> None:
    """Give the planner fresh statistics, and index-only scans their visibility map."""
    names = sql.SQL(", ").join(sql.Identifier("reference", table) for table in TABLES)
    connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(names))


def count_rows(connection: psycopg.Connection[TupleRow], table: str) -> int:
    """Return the number of rows of a table in schema reference."""
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("reference", table))
    row = connection.execute(query).fetchone()
    return 0 if row is None else int(row[0])
