"""What the database's catalog says about a reference table: columns, keys and rules."""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import class_row

from infra.ops.reference_csv import Column, ReferenceFileError, nearest

SCHEMA = "reference"
# Describes the others; written by reference.mark_loaded, never from a file.
DESCRIPTION_TABLE = "grid"

Database = Connection[Any]

TABLES = """
SELECT relname
FROM pg_class
WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p') AND relname <> %s
ORDER BY relname
"""

COLUMNS = """
SELECT
    attribute.attname AS name,
    format_type(attribute.atttypid, attribute.atttypmod) AS type_name,
    type.typcategory = 'A' AS is_array,
    attribute.attnotnull AS not_null,
    attribute.attnotnull AND NOT attribute.atthasdef AND attribute.attidentity = '' AS required
FROM pg_attribute AS attribute
JOIN pg_type AS type ON type.oid = attribute.atttypid
WHERE attribute.attrelid = %s::regclass AND attribute.attnum > 0
    AND NOT attribute.attisdropped AND attribute.attgenerated = ''
ORDER BY attribute.attnum
"""

CONSTRAINTS = """
SELECT
    con.conname AS name,
    con.contype::text AS kind,
    ARRAY(
        SELECT attribute.attname
        FROM unnest(con.conkey) WITH ORDINALITY AS key (attnum, position)
        JOIN pg_attribute AS attribute
            ON attribute.attrelid = con.conrelid AND attribute.attnum = key.attnum
        ORDER BY key.position
    )::text[] AS columns,
    coalesce(pg_get_expr(con.conbin, con.conrelid), '') AS expression,
    coalesce(obj_description(con.oid, 'pg_constraint'), '') AS comment,
    coalesce(target_space.nspname, '') AS target_schema,
    coalesce(target.relname, '') AS target_table,
    ARRAY(
        SELECT attribute.attname
        FROM unnest(con.confkey) WITH ORDINALITY AS key (attnum, position)
        JOIN pg_attribute AS attribute
            ON attribute.attrelid = con.confrelid AND attribute.attnum = key.attnum
        ORDER BY key.position
    )::text[] AS target_columns
FROM pg_constraint AS con
LEFT JOIN pg_class AS target ON target.oid = con.confrelid
LEFT JOIN pg_namespace AS target_space ON target_space.oid = target.relnamespace
WHERE con.conrelid = %s::regclass AND con.contype IN ('c', 'f', 'p', 'u')
ORDER BY con.contype, con.conname
"""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as the catalog has it; `type_name` is usable in a cast."""

    name: str
    type_name: str
    is_array: bool
    not_null: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Constraint:
    """A rule of a table. `kind` is PostgreSQL's letter: c check, f foreign, p primary, u unique."""

    name: str
    kind: str
    columns: list[str]
    expression: str
    comment: str
    target_schema: str
    target_table: str
    target_columns: list[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of schema reference, and everything a row of it must satisfy."""

    name: str
    columns: list[TableColumn]
    constraints: list[Constraint]

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified, quoted name."""
        return sql.Identifier(SCHEMA, self.name)

    @property
    def key(self) -> list[str]:
        """The columns of the primary key."""
        return next(rule.columns for rule in self.constraints if rule.kind == "p")

    def header_columns(self) -> list[Column]:
        """Return what a file's header is checked against."""
        return [Column(column.name, column.required) for column in self.columns]

    def column(self, name: str) -> TableColumn:
        """Return the column of that name."""
        return next(column for column in self.columns if column.name == name)

    def rules(self, kind: str) -> list[Constraint]:
        """Return the constraints of one kind."""
        return [rule for rule in self.constraints if rule.kind == kind]


def read_table(connection: Database, name: str) -> Table:
    """Return the table's catalog entry; raises ReferenceFileError for an unknown name."""
    names = [row[0] for row in connection.execute(TABLES, (SCHEMA, DESCRIPTION_TABLE))]
    if not names:
        raise ReferenceFileError(f"schema {SCHEMA} has no tables; run the migrate service first")
    if name not in names:
        raise ReferenceFileError(f"no reference table {name!r:.80}; {nearest(name, names)}")
    qualified = sql.Identifier(SCHEMA, name).as_string(connection)
    with connection.cursor(row_factory=class_row(TableColumn)) as columns:
        columns.execute(COLUMNS, (qualified,))
        found = columns.fetchall()
    with connection.cursor(row_factory=class_row(Constraint)) as constraints:
        constraints.execute(CONSTRAINTS, (qualified,))
        return Table(name, found, constraints.fetchall())
