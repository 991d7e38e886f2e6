"""Decides whether schema reference needs synthetic data, and puts them there."""

import time
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, class_row

from app.log import Logger

TABLES = ("grid_cells", "hazard_results", "probability_results", "buildings", "population")

READ_GRID = "SELECT source, step_degrees FROM reference.grid"
COUNT_UNFINISHED = "SELECT count(*) FROM risk.assessments WHERE finished_at IS NULL"


class ReferenceInUseError(Exception):
    """The synthetic grid cannot be changed while assessments on the present one are unfinished."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the reference data come from, and the step of their grid in degrees."""

    source: str
    step_degrees: float


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
