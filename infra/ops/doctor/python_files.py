"""SQL in Python sources, as far as it stands there in literals, and calls that need a session.

A literal is SQL when a call executes it, when its name says so, or when it cannot be anything else.
English that happens to be SQL ("listen carefully") is not judged unless something executes it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from infra.ops.doctor import findings as rules
from infra.ops.doctor.findings import Rule
from infra.ops.doctor.plpgsql import UNKNOWN
from infra.ops.doctor.scripts import read_with_placeholders
from infra.ops.doctor.statements import ADVISORY, TRACKED, Hit, NotSqlError, settle

# Their first argument is SQL, whatever their object is.
_EXECUTE: Final = re.compile(
    r"execute(many|script|_batch|_values|_sql)?|exec_driver_sql|copy_expert|run_sql|RunSQL"
)
# It is SQL in a module that uses a library for PostgreSQL.
_OF_LIBRARIES: Final = re.compile(
    r"text|SQL|DDL|fetch(row|val|_all|_one|_val)?|raw|RawSQL|prepare|iterate|mogrify"
    r"|read_sql(_query)?|cursor|stream|scalars?|query"
)
_POSTGRES: Final = re.compile(
    r"psycopg2?|asyncpg|sqlalchemy|sqlmodel|databases|django|alembic|aiopg|pg8000|peewee|tortoise"
    r"|pandas"
)
_OTHER_DATABASE: Final = re.compile(
    r"(aio)?sqlite3?|(aio|py)?mysql|MySQLdb|duckdb|oracledb|cx_Oracle|pyodbc|pymssql|snowflake"
    r"|clickhouse_driver"
)
_SQL_KEYWORDS: Final = ("sql", "query", "statement", "operation", "reverse_sql", "stmt")
# Of methods that hand a text on, and functions that only change its layout.
_SAME_TEXT: Final = frozenset(
    ("format", "strip", "lstrip", "rstrip", "dedent", "cleandoc", "encode", "bindparams", "columns")
)
_NAMED_SQL: Final = re.compile(r"sql|quer(?:y|ies)|stmt|statement|ddl|migration", re.IGNORECASE)
_DATABASE_OBJECT: Final = re.compile(
    r"(?:^|_)(?:cur|curs|cursor|c|con|conn|connection|db|dbapi|database|session|engine|pool|tx|trans"
    r"|transaction|op|editor|pg|postgres|sql|bind)(?:$|_|\d)",
    re.IGNORECASE,
)
_WRAPPER: Final = re.compile(
    r"(?:^|_)(?:exec|execute|query|sql|fetch|stmt|statement|ddl|psql)(?:$|_)", re.IGNORECASE
)
_FIRST_WORD: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?P<word>[A-Za-z]+)\b", re.DOTALL)
_STATEMENT: Final = re.compile(
    r"ALTER|ANALYZE|BEGIN|CALL|CLOSE|CLUSTER|COMMENT|COMMIT|COPY|CREATE|DEALLOCATE|DECLARE|DELETE"
    r"|DISCARD|DO|DROP|EXECUTE|EXPLAIN|FETCH|GRANT|IMPORT|INSERT|LISTEN|LOAD|LOCK|MERGE|MOVE|NOTIFY"
    r"|PREPARE|REASSIGN|REFRESH|REINDEX|RELEASE|RESET|REVOKE|ROLLBACK|SAVEPOINT|SECURITY|SELECT|SET"
    r"|SHOW|START|TABLE|TRUNCATE|UNLISTEN|UPDATE|VACUUM|VALUES|WITH",
    re.IGNORECASE,
)
# What these statements look like is also said in English.
_ENGLISH: Final = re.compile(r"(?:SET|(?:UN)?LISTEN|PREPARE|EXECUTE|DEALLOCATE|LOAD) ")
_SHORT_ENGLISH: Final = re.compile(r"(?:(?:UN)?LISTEN|EXECUTE|DEALLOCATE|LOAD) ")


@dataclass(frozen=True, slots=True)
class Found:
    """What a source has: hits with their line (from 1), how many texts were judged, what was not.

    `unjudged` has the line and the reason of each.
    """

    hits: tuple[Hit, ...]
    judged: int
    unjudged: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class _Context:
    """What is known of a string from where it stands: something executes it, or it is named so.

    One that is not `free` is there for something else, such as the argument of any call.
    """

    executed: bool = False
    named: bool = False
    free: bool = True

    @property
    def is_sql(self) -> bool:
        return self.executed or self.named


_NOTHING: Final = _Context()
_OTHER_USE: Final = _Context(free=False)


def read_source(source: str) -> Found:
    """Return what a module has in it.

    Raises:
        SyntaxError, ValueError: it is not Python of this version.

    """
    return _Module(ast.parse(source), source.splitlines()).read()


class _Module:
    """Looks through one module."""

    def __init__(self, tree: ast.Module, lines: Sequence[str]) -> None:
        self._tree = tree
        self._lines = lines
        self._imported = set(_imports(tree))
        self._postgres = _any(self._imported, _POSTGRES)
        self._executed = set(self._executed_names())
        self._hits: list[Hit] = []
        self._unjudged: list[tuple[int, str]] = []
        self._judged = 0

    def read(self) -> Found:
        if self._postgres or not _any(self._imported, _OTHER_DATABASE):
            self._visit(self._tree, _NOTHING)
        ordered = dict.fromkeys(sorted(self._hits, key=lambda one: one.line))
        return Found(tuple(ordered), self._judged, tuple(self._unjudged))

    def _executed_names(self) -> Iterator[str]:
        """Yield the names of variables that are executed somewhere in the module."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call) and _EXECUTE.fullmatch(_name(node.func)) and node.args:
                first = node.args[0]
                while isinstance(first, ast.Call) and first.args:
                    first = first.args[0]
                if isinstance(first, (ast.Name, ast.Attribute)):
                    yield _name(first)

    def _visit(self, node: ast.AST, context: _Context) -> None:
        if isinstance(node, ast.expr) and (text := _text(node)) is not None:
            self._judge(node, text, context)
            return
        match node:
            case ast.Call():
                self._call(node, context)
            case ast.Assign(targets=targets, value=value):
                self._visit(value, self._of_names([_name(one) for one in targets]))
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._visit(value, self._of_names([_name(target)]))
            case ast.Expr(value=ast.Constant(value=str())):
                return  # a docstring
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                named = _Context(named=bool(_NAMED_SQL.search(node.name)))
                for inner in ast.iter_child_nodes(node):
                    self._visit(inner, named)
            case ast.Return() | ast.Yield() | ast.Tuple() | ast.List() | ast.Set() | ast.IfExp():
                for inner in ast.iter_child_nodes(node):
                    self._visit(inner, context)
            case ast.Dict():
                self._dict(node, context)
            case ast.For() | ast.AsyncFor():
                self._visit(node.iter, self._of_names([_name(node.target)]))
                for inner in (*node.body, *node.orelse):
                    self._visit(inner, context)
            case ast.Module() | ast.ClassDef() | ast.Lambda() | ast.BoolOp() | ast.Starred():
                for inner in ast.iter_child_nodes(node):
                    self._visit(inner, _NOTHING if context.free else context)
            case _:
                # A function's name is known to what it returns, at any depth of its blocks.
                blocks = (ast.stmt, ast.excepthandler, ast.match_case)
                for inner in ast.iter_child_nodes(node):
                    self._visit(inner, context if isinstance(inner, blocks) else _OTHER_USE)

    def _of_names(self, names: Sequence[str]) -> _Context:
        return _Context(
            executed=any(name in self._executed for name in names),
            named=any(_NAMED_SQL.search(name) for name in names),
        )

    def _call(self, node: ast.Call, context: _Context) -> None:
        name = _name(node.func)
        self._shape(node, name)
        self._visit(node.func, _OTHER_USE)
        for index, argument in enumerate(node.args):
            self._visit(argument, self._of_argument(node, name, index, context))
        for keyword in node.keywords:
            is_sql = keyword.arg in _SQL_KEYWORDS
            first = self._of_argument(node, name, 0, context)
            self._visit(keyword.value, first if is_sql else _OTHER_USE)

    def _of_argument(self, node: ast.Call, name: str, index: int, context: _Context) -> _Context:
        if index and not (name == "RunSQL" or (name.startswith("execute_") and index == 1)):
            return _OTHER_USE
        if _EXECUTE.fullmatch(name):
            is_database = self._postgres or name == "RunSQL"
            owner = _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            return _Context(executed=is_database or bool(_DATABASE_OBJECT.search(owner)))
        if _OF_LIBRARIES.fullmatch(name):
            return _Context(executed=True) if self._postgres else _OTHER_USE
        if _WRAPPER.search(name):
            return _Context(named=True)
        return context if name in _SAME_TEXT else _OTHER_USE

    def _dict(self, node: ast.Dict, context: _Context) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            text = key.value if isinstance(key, ast.Constant) else None
            if text == "options" and _is_option(value):
                self._hit(rules.STARTUP, "options", value)
            named = isinstance(text, str) and bool(_NAMED_SQL.search(text))
            self._visit(value, replace(context, named=context.named or named))

    def _shape(self, node: ast.Call, name: str) -> None:
        """Judge the calls of libraries that need a session whatever their arguments."""
        given = {one.arg: one.value for one in node.keywords if one.arg}
        if name == "add_listener" and "asyncpg" in self._imported:
            self._hit(rules.LISTEN, "add_listener()", node)
        elif name == "add_notify_handler" and "psycopg" in self._imported:
            self._hit(rules.LISTEN, "add_notify_handler()", node)
        elif name == "cursor" and _is_true(given.get("withhold")):
            self._hit(rules.HOLD, "cursor(withhold=True)", node)
        elif name == "set_session" and "psycopg2" in self._imported:
            # Otherwise psycopg2 puts them into its BEGIN.
            if _is_true(given.get("autocommit")) and len(given) + len(node.args) > 1:
                self._hit(rules.SETTING, "set_session(autocommit=True, ...)", node)
        elif isinstance(node.func, ast.Attribute) and _name(node.func.value) == "func":
            self._sqlalchemy_function(node, name)
        if _is_option(given.get("options")):
            self._hit(rules.STARTUP, "options", given["options"])
        settings = given.get("server_settings")
        if "asyncpg" in self._imported and isinstance(settings, ast.Dict):
            keys = [one.value for one in settings.keys if isinstance(one, ast.Constant)]
            if others := [str(one) for one in keys if str(one).lower() not in TRACKED]:
                self._hit(rules.STARTUP, f"server_settings: {', '.join(others)}", settings)

    def _sqlalchemy_function(self, node: ast.Call, name: str) -> None:
        if "sqlalchemy" not in self._imported:
            return
        if ADVISORY.fullmatch(name):
            self._hit(rules.ADVISORY_LOCK, f"func.{name}()", node)
        elif name == "set_config" and len(node.args) == 3 and _is_false(node.args[2]):
            self._hit(rules.SETTING, "func.set_config(..., False)", node)

    def _hit(self, rule: Rule, evidence: str, node: ast.expr) -> None:
        self._hits.append(Hit(rule, evidence, node.lineno))

    def _judge(self, node: ast.expr, text: str, context: _Context) -> None:
        if not (context.is_sql or context.free):
            return
        word = _FIRST_WORD.match(text)
        if not word or not _STATEMENT.fullmatch(word["word"]) or len(text.split()) == 1:
            return
        try:
            statements = read_with_placeholders(text.replace(UNKNOWN, f"{{{UNKNOWN}}}"))
        except NotSqlError as error:
            if context.is_sql:
                self._judged += 1
                self._unjudged.append((node.lineno, str(error)))
            return
        self._judged += 1
        for reason in (reason for one in statements for reason in one.unjudged):
            self._unjudged.append((node.lineno, reason))
        hits = [
            hit
            for hit in settle(statements, one_transaction=True)
            if context.is_sql or not _may_be_english(hit, word["word"], text)
        ]
        self._hits += [replace(hit, line=self._line(hit, text, node)) for hit in hits]

    def _line(self, hit: Hit, text: str, node: ast.expr) -> int:
        """Return the line of a hit in the source, from 1."""
        last = node.end_lineno or node.lineno
        if last - node.lineno == text.count("\n"):
            return node.lineno + hit.line
        # Several literals in a row: the first line that has the most of its words.
        words = [one.lower() for one in re.findall(r"\w+", hit.evidence)]
        lines = range(node.lineno, last + 1)
        return max(
            lines,
            key=lambda line: (sum(one in self._lines[line - 1].lower() for one in words), -line),
        )


def _may_be_english(hit: Hit, word: str, text: str) -> bool:
    """Return True if nothing but its form says that it is SQL, and the form is one of English."""
    if ";" in text or not _ENGLISH.match(hit.evidence):
        return False
    return not word.isupper() or bool(_SHORT_ENGLISH.match(hit.evidence))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the first part of the name of each module that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def _any(names: Iterable[str], pattern: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(one) for one in names)


def _name(node: ast.AST) -> str:
    """Return the last part of a name; of a call, that of what is called."""
    while isinstance(node, (ast.Call, ast.Subscript, ast.Await)):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str | None:
    """Return a string with UNKNOWN for what is known at run time; None where it is no string."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(one) or UNKNOWN for one in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = _text(left), _text(right)
            return None if parts == (None, None) else "".join(one or UNKNOWN for one in parts)
        case ast.BinOp(left=left, op=ast.Mod()):
            return _text(left)
        case ast.Call(func=ast.Attribute(value=owner, attr="join"), args=[ast.List(elts=parts)]):
            separator = _text(owner)
            texts = [_text(one) or UNKNOWN for one in parts]
            return None if separator is None else separator.join(texts)
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in _SAME_TEXT:
            if (inner := _text(owner)) is not None:
                return inner
            return _text(node.args[0]) if name in ("dedent", "cleandoc") and node.args else None
        case ast.Call(func=ast.Name(id=name), args=[first]) if name in ("dedent", "cleandoc"):
            return _text(first)
    return None


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _is_option(node: ast.expr | None) -> bool:
    """Return True if it is a literal with the server's option -c, as `-c search_path=x`."""
    text = None if node is None else _text(node)
    return text is not None and re.match(r"\s*-c\s*[\w.]+=", text) is not None
