"""Finds every bad row of a staged file, with the database's own types and rules.

`incoming` holds the file's text with its line numbers, `typed` the rows whose every value
has the right type, `faults` what is wrong. All three are temporary and go with the
transaction.
"""

from collections.abc import Iterator, Sequence

from psycopg import sql

from infra.ops.reference_catalog import Constraint, Database, Table
from infra.ops.reference_csv import Fault

LINE = sql.Identifier("#line")
INCOMING = sql.Identifier("pg_temp", "incoming")
TYPED = sql.Identifier("pg_temp", "typed")
FAULTS = sql.Identifier("pg_temp", "faults")

Query = sql.Composed
Check = tuple[str, Query]


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


def checks(table: Table, header: Sequence[str], *, replace: bool) -> Iterator[Check]:
    """Yield (what is checked, statement that adds to faults), in the order to run them.

    After a statement none of the later ones meets a row that it would fail on. With
    `replace`, rows outside the file are about to go and cannot be in its way.
    """
    for name in header:
        yield f"values of {name}", _type_check(table, name)
    for name in header:
        if table.column(name).not_null:
            yield f"presence of {name}", _presence_check(name)
    yield "types", _fill_typed(table, header)
    for rule in table.rules("c"):
        yield rule.name, _rule_check(rule)
    for rule in [*table.rules("p"), *table.rules("u")]:
        if set(rule.columns) <= set(header):
            yield rule.name, _repeat_check(rule)
    for rule in [] if replace else table.rules("u"):
        if set(rule.columns) <= set(header):
            yield rule.name, _taken_check(table, rule)
    for rule in table.rules("f"):
        if set(rule.columns) <= set(header):
            yield rule.name, _reference_check(rule)


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
