"""What a restored cluster holds, and whether it is whole: indexes, heaps, the app's own rules."""

import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from infra.config import names

# A table that takes longer to count is estimated, and says so.
_COUNT_MS: Final = 20_000
# All indexes and heaps of a database are looked at for this long at most.
_AMCHECK_SECONDS: Final = 600.0
# Above it an index is not compared with every row of its table.
_ALL_INDEXED_BYTES: Final = 2 << 30

_DATABASES: Final = """
SELECT datname FROM pg_catalog.pg_database
WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' ORDER BY datname
"""
_TABLES: Final = """
SELECT n.nspname AS schema, c.relname AS name, c.reltuples::bigint AS estimate
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg_toast%'
ORDER BY 1, 2
"""
_HAS_AMCHECK: Final = "SELECT FROM pg_catalog.pg_extension WHERE extname = 'amcheck'"
# Not those of partitioned tables, which have no pages; their parts' are among them.
_INDEXES: Final = """
SELECT c.oid, c.oid::regclass::text AS name, pg_catalog.pg_relation_size(i.indrelid) AS bytes
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
WHERE c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid AND i.indisready
      AND c.relpersistence <> 't'
ORDER BY 3
"""
_HEAPS: Final = """
SELECT oid, oid::regclass::text AS name FROM pg_catalog.pg_class
WHERE relkind IN ('r', 'm', 't') AND relpersistence <> 't' ORDER BY relpages
"""
# Each finds nothing in a database that is whole; a message and the number of what breaks it.
_RULES: Final = {
    "assessments that succeeded without all of their tasks done": """
        SELECT count(*) FROM risk.assessments AS a
        WHERE status = 'succeeded' AND total_tasks <> (
            SELECT count(*) FROM risk.tasks AS t
            WHERE t.assessment_id = a.assessment_id AND t.state = 'done')
    """,
    "tasks that are done without all of their results": """
        SELECT count(*) FROM risk.tasks AS t WHERE state = 'done' AND (
            SELECT count(*) FROM risk.aal_scaled_results AS r
            WHERE (r.assessment_id, r.site_no, r.scenario, r.year)
                = (t.assessment_id, t.site_no, t.scenario, t.year)
        ) <> cardinality(enum_range(NULL::risk.risk_type))
    """,
    "results of tasks that are not done": """
        SELECT count(*) FROM (
            SELECT DISTINCT assessment_id, site_no, scenario, year FROM risk.aal_scaled_results
        ) AS r LEFT JOIN risk.tasks AS t USING (assessment_id, site_no, scenario, year)
        WHERE t.state IS DISTINCT FROM 'done'
    """,
}


def connect(socket: str, database: str) -> psycopg.Connection[Any]:
    """Connect to the restored server as its superuser."""
    return psycopg.connect(
        f"host={socket} user=postgres dbname={database} connect_timeout=3",
        autocommit=True,
        row_factory=psycopg.rows.tuple_row,
    )


def look(socket: str, faults: list[str], warnings: list[str]) -> list[dict[str, Any]]:
    """Return the rows of every table; add what is not whole, and what was not looked at."""
    with connect(socket, "postgres") as connection:
        databases = [name for (name,) in connection.execute(_DATABASES).fetchall()]
    found: list[dict[str, Any]] = []
    for database in databases:
        with connect(socket, database) as connection:
            # As for a fresh copy: what was set on roles and databases does not hold here.
            connection.execute("SET statement_timeout = 0")
            faults += (f"{database}: {line}" for line in _amcheck(connection, database, warnings))
            if database == names.DATABASE:
                faults += _broken_rules(connection)
            found += ({"database": database, **row} for row in _rows(connection))
    return found


def _amcheck(
    connection: psycopg.Connection[Any], database: str, warnings: list[str]
) -> Iterator[str]:
    deadline = time.monotonic() + _AMCHECK_SECONDS
    left = 0
    made = connection.execute(_HAS_AMCHECK).fetchone() is None
    connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
    for oid, name, size in connection.execute(_INDEXES).fetchall():
        if time.monotonic() > deadline:
            left += 1
            continue
        try:
            connection.execute(
                "SELECT bt_index_check(%s, heapallindexed => %s)", (oid, size < _ALL_INDEXED_BYTES)
            )
        except psycopg.Error as error:
            yield f"index {name}: {str(error).splitlines()[0]}"
    for oid, name in connection.execute(_HEAPS).fetchall():
        if time.monotonic() > deadline:
            left += 1
            continue
        row = connection.execute(
            "SELECT blkno, msg FROM verify_heapam(%s) LIMIT 1", (oid,)
        ).fetchone()
        if row:
            yield f"table {name}, page {row[0]}: {row[1]}"
    if made:
        connection.execute("DROP EXTENSION amcheck")
    if left:
        warnings.append(
            f"{database}: {left} indexes and tables were not looked at; it took too long"
        )


def _broken_rules(connection: psycopg.Connection[Any]) -> Iterator[str]:
    row = connection.execute("SELECT to_regclass('risk.tasks') IS NOT NULL").fetchone()
    if not row or not row[0]:
        return
    for what, query in _RULES.items():
        count = connection.execute(query).fetchone()
        if count and count[0]:
            yield f"{names.DATABASE}: {count[0]} {what}"


def _rows(connection: psycopg.Connection[Any]) -> Iterator[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        tables = cursor.execute(_TABLES).fetchall()
    for one in tables:
        name = sql.Identifier(one["schema"], one["name"])
        try:
            connection.execute(f"SET statement_timeout = {_COUNT_MS}")
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
            counted = {"rows": row[0] if row else 0, "exact": True}
        except psycopg.errors.QueryCanceled:
            counted = {"rows": max(one["estimate"], 0), "exact": False}
        yield {"table": f"{one['schema']}.{one['name']}", **counted}
