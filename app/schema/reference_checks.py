"""What a row of a reference table must satisfy, by the database's catalog, and which rows do not.

A file is staged in three temporary tables, which go with the transaction: `incoming` holds its
text with its line numbers, `typed` the rows whose every value has the right type, `faults` what
is wrong. Every bad row is found, with the database's own types and rules.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import class_row

from app.schema.reference_csv import Column, Fault, ReferenceFileError, nearest

SCHEMA = "reference"
# Describes the others; written by reference.mark_loaded, never from a file.
DESCRIPTION_TABLE = "grid"

Database = Connection[Any]

LINE = sql.Identifier("#line")
INCOMING = sql.Identifier("pg_temp", "incoming")
TYPED = sql.Identifier("pg_temp", "typed")
FAULTS = sql.Identifier("pg_temp", "faults")

Query = sql.Composed

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


def create_staging(connection: Database, table: Table, header: Sequence[str]) -> None:
    """Create the three temporary tables for a file with that header."""
    texts = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in header)
    connection.execute(
        sql.SQL("CREATE TEMP TABLE incoming ({} bigint, {}) ON COMMIT DROP").format(LINE, texts)
    )
    connection.execute(
        sql.SQL(
            "CREATE TEMP TABLE typed (LIKE {} INCLUDING DEFAULTS, {} bigint) ON COMMIT DROP"
        ).format(table.identifier, LINE)
    )
    connection.execute(
        'CREATE TEMP TABLE faults ("#line" bigint, column_name text, value text, reason text) '
        "ON COMMIT DROP"
    )


def checks(table: Table, header: Sequence[str], *, replace: bool) -> Iterator[Query]:
    """Yield the statements that add to faults, in the order to run them.

    After a statement none of the later ones meets a row that it would fail on. With
    `replace`, rows outside the file are about to go and cannot be in its way.
    """
    for name in header:
        yield _type_check(table, name)
    for name in header:
        if table.column(name).not_null:
            yield _presence_check(name)
    yield _fill_typed(table, header)
    for rule in table.rules("c"):
        yield _rule_check(rule)
    for rule in [*table.rules("p"), *table.rules("u")]:
        if set(rule.columns) <= set(header):
            yield _repeat_check(rule)
    for rule in [] if replace else table.rules("u"):
        if set(rule.columns) <= set(header):
            yield _taken_check(table, rule)
    for rule in table.rules("f"):
        if set(rule.columns) <= set(header):
            yield _reference_check(rule)


def count_faults(connection: Database) -> int:
    """Return how many faults the checks have found."""
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(FAULTS)).fetchone()
    return int(row[0]) if row else 0


def read_faults(connection: Database, limit: int) -> list[Fault]:
    """Return the first faults of the checks in the order of the file."""
    query = sql.SQL(
        "SELECT {}, column_name, value, reason FROM {} ORDER BY 1, 2, 4 LIMIT {}"
    ).format(LINE, FAULTS, limit)
    return [Fault(*row) for row in connection.execute(query)]


def cast_input(table: Table, name: str) -> Query:
    """Return the text of a column as its type takes it: semicolon lists become arrays."""
    text = sql.Identifier(name)
    if not table.column(name).is_array:
        return sql.SQL("{}").format(text)
    return sql.SQL(
        "CASE WHEN {0} ~ '^\\s*[[{{]' THEN {0} ELSE '{{' || replace({0}, ';', ',') || '}}' END"
    ).format(text)


def _type_check(table: Table, name: str) -> Query:
    return sql.SQL(
        "INSERT INTO {faults} SELECT {line}, {name}, {text}, "
        "(pg_input_error_info({input}, {type})).message FROM {incoming} "
        "WHERE {text} IS NOT NULL AND NOT pg_input_is_valid({input}, {type})"
    ).format(
        faults=FAULTS,
        line=LINE,
        name=name,
        text=sql.Identifier(name),
        input=cast_input(table, name),
        type=table.column(name).type_name,
        incoming=INCOMING,
    )


def _presence_check(name: str) -> Query:
    return sql.SQL(
        "INSERT INTO {} SELECT {}, {}, NULL, 'a value is needed' FROM {} WHERE {} IS NULL"
    ).format(FAULTS, LINE, name, INCOMING, sql.Identifier(name))


def _fill_typed(table: Table, header: Sequence[str]) -> Query:
    casts = sql.SQL(", ").join(
        sql.SQL("CAST({} AS {})").format(
            # The catalog's own spelling of the type, quoted there where it needs to be.
            cast_input(table, name),
            sql.SQL(table.column(name).type_name),
        )
        for name in header
    )
    return sql.SQL(
        "INSERT INTO {typed} ({columns}, {line}) SELECT {casts}, {line} FROM {incoming} AS raw "
        "WHERE NOT EXISTS (SELECT FROM {faults} AS fault WHERE fault.{line} = raw.{line})"
    ).format(
        typed=TYPED,
        columns=sql.SQL(", ").join(map(sql.Identifier, header)),
        line=LINE,
        casts=casts,
        incoming=INCOMING,
        faults=FAULTS,
    )


def _rule_check(rule: Constraint) -> Query:
    return sql.SQL(
        "INSERT INTO {faults} SELECT {line}, {names}, {values}, {reason} FROM {typed} "
        "WHERE NOT ({expression})"
    ).format(
        faults=FAULTS,
        line=LINE,
        names=", ".join(rule.columns),
        values=_values(rule.columns),
        reason=f"breaks {rule.name}: {rule.comment or rule.expression}",
        typed=TYPED,
        expression=sql.SQL(rule.expression),
    )


def _repeat_check(rule: Constraint) -> Query:
    key = sql.SQL(", ").join(map(sql.Identifier, rule.columns))
    return sql.SQL(
        "INSERT INTO {faults} SELECT {line}, {names}, {values}, "
        "'repeats the key of line ' || first_line FROM ("
        "SELECT *, min({line}) OVER (PARTITION BY {key}) AS first_line FROM {typed} "
        "WHERE num_nulls({key}) = 0) AS keyed WHERE {line} > first_line"
    ).format(
        faults=FAULTS,
        line=LINE,
        names=", ".join(rule.columns),
        values=_values(rule.columns),
        key=key,
        typed=TYPED,
    )


def _taken_check(table: Table, rule: Constraint) -> Query:
    """Find values that a row outside the file holds already."""
    return sql.SQL(
        "INSERT INTO {faults} SELECT new.{line}, {names}, {values}, "
        "'another row of the table has it already, with {key_names} ' || {old_key} "
        "FROM {typed} AS new JOIN {table} AS old ON {same_values} "
        "WHERE NOT EXISTS (SELECT FROM {typed} AS other WHERE {same_key})"
    ).format(
        faults=FAULTS,
        line=LINE,
        names=", ".join(rule.columns),
        values=_values(rule.columns, "new"),
        key_names=sql.SQL(", ".join(table.key)),
        old_key=_values(table.key, "old"),
        typed=TYPED,
        table=table.identifier,
        same_values=_equal("new", rule.columns, "old", rule.columns),
        same_key=_equal("other", table.key, "old", table.key),
    )


def _reference_check(rule: Constraint) -> Query:
    target = sql.Identifier(rule.target_schema, rule.target_table)
    return sql.SQL(
        "INSERT INTO {faults} SELECT {line}, {names}, {values}, {reason} FROM {typed} AS new "
        "WHERE {present} AND NOT EXISTS (SELECT FROM {target} AS old WHERE {same})"
    ).format(
        faults=FAULTS,
        line=LINE,
        names=", ".join(rule.columns),
        values=_values(rule.columns, "new"),
        reason=f"is not in {rule.target_schema}.{rule.target_table}; load that table first",
        typed=TYPED,
        present=sql.SQL("num_nulls({}) = 0").format(
            sql.SQL(", ").join(sql.Identifier("new", name) for name in rule.columns)
        ),
        target=target,
        same=_equal("new", rule.columns, "old", rule.target_columns),
    )


def _values(columns: Sequence[str], alias: str | None = None) -> Query:
    parts = (sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in columns)
    return sql.SQL("concat_ws(', ', {})").format(
        sql.SQL(", ").join(sql.SQL("coalesce({}::text, 'NULL')").format(part) for part in parts)
    )


def _equal(
    left: str, left_columns: Sequence[str], right: str, right_columns: Sequence[str]
) -> Query:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, one), sql.Identifier(right, other))
        for one, other in zip(left_columns, right_columns, strict=True)
    )
