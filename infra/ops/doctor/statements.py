"""Judge SQL by what PostgreSQL's own parser makes of it: which statements need a session.

The parser is pglast's, libpg_query in a wheel; its trees are read as JSON. Bodies of functions in
SQL and PL/pgSQL, DO blocks, and statements that PL/pgSQL puts together for EXECUTE are judged too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pglast import parser

from infra.ops.doctor import findings as rules
from infra.ops.doctor.findings import Rule
from infra.ops.doctor.plpgsql import built, expressions

# A longer statement is data. Its tree would take hundreds of times its length in memory.
STATEMENT_BYTES: Final = 256 << 10

ADVISORY: Final = re.compile(r"pg_(try_)?advisory_(lock|unlock)(_shared|_all)?")
# PgBouncer sees a change of these in what the server reports, and gives each client its own value.
TRACKED: Final = frozenset(
    ("client_encoding", "datestyle", "timezone", "standard_conforming_strings", "application_name")
)
_IDENTITY: Final = frozenset(("role", "session_authorization"))
_CURSOR_HOLD: Final = 0x0020
# What the parser gives as a SET that is not one of this session.
_SET_OF_OTHERS: Final = ("AlterRoleSetStmt", "AlterDatabaseSetStmt", "AlterSystemStmt")
_BLANK: Final = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)

Tree = dict[str, Any]


class NotSqlError(ValueError):
    """The parser does not take it; the message says why, `at` which character it stopped at."""

    at: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A statement that needs a session: by which rule, on which line of the text (from 0).

    `subject` is the object or setting, by which a later statement may undo it.
    """

    rule: Rule
    evidence: str
    line: int
    subject: str = ""


@dataclass(slots=True)
class Statement:
    """What one statement does: its hits, and what matters to statements beside it.

    `unjudged` are the reasons why a part of it, such as the body of a function, was not judged.
    """

    hits: list[Hit] = field(default_factory=list)
    undone: set[str] = field(default_factory=set)
    begins: bool = False
    ends: bool = False
    makes_value: bool = False
    unjudged: list[str] = field(default_factory=list)

    def move(self, lines: int) -> None:
        """Count its lines from another one."""
        self.hits = [replace(hit, line=hit.line + lines) for hit in self.hits]


def read(text: str) -> list[Statement]:
    """Return what each statement of a text does.

    Raises:
        NotSqlError: PostgreSQL's parser does not take it, or it is too long to be judged.

    """
    data = text.encode("utf-8", errors="replace")
    if len(data) > STATEMENT_BYTES:
        raise NotSqlError(f"a statement of {len(data) >> 10} KiB; above {STATEMENT_BYTES >> 10}")
    if "\0" in text:
        raise NotSqlError("a NUL character, which SQL cannot have")
    try:
        found = json.loads(parser.parse_sql_json(text))["stmts"]
    except parser.ParseError as error:
        refused = NotSqlError(str(error.args[0]))
        # Without a place it is the end of the text that was not expected.
        refused.at = error.args[1] if isinstance(error.args[-1], int) else len(text)
        raise refused from error
    except RecursionError as error:
        raise NotSqlError("nested too deeply") from error
    return [_Reader(data, one).statement() for one in found]


def settle(statements: Iterable[Statement], *, one_transaction: bool = False) -> list[Hit]:
    """Return the hits of statements in their order, without what the same transaction undoes.

    `one_transaction` says that they are sent as one, as a text of several statements is.
    """
    hits: list[Hit] = []
    # Of the open transaction: from which hit on, and whether it has made a value of a sequence.
    start, inside, made = 0, one_transaction, False
    for one in statements:
        if one.begins:
            start, inside, made = len(hits), True, False
        if one.undone and inside:
            hits[start:] = [hit for hit in hits[start:] if not _is_undone(hit, one.undone)]
        hits += [hit for hit in one.hits if not (made and hit.rule is rules.SEQUENCE_VALUE)]
        made = made or one.makes_value
        if one.ends:
            start, inside, made = len(hits), one_transaction, False
        elif not inside:
            start, made = len(hits), False
    return hits


def _is_undone(hit: Hit, undone: set[str]) -> bool:
    kind, _, name = hit.subject.partition(" ")
    return bool(name) and (hit.subject in undone or f"{kind} *" in undone)


def judge(text: str) -> list[Hit]:
    """Return the hits of a text that is sent to the server as one.

    Raises:
        NotSqlError: as `read` does.

    """
    return settle(read(text), one_transaction=True)


class _Reader:
    """Reads one statement's tree."""

    def __init__(self, data: bytes, found: Tree) -> None:
        self._data = data
        self._tree: Tree = found["stmt"]
        start = found.get("stmt_location", 0)
        length = found.get("stmt_len", 0)
        self._text = data[start : start + length if length else None].decode("utf-8", "replace")
        blank = _BLANK.match(self._text)
        self._start = start + len(self._text[: blank.end() if blank else 0].encode())
        self._made = Statement()

    def statement(self) -> Statement:
        inserts = 0
        for kind, node in _nodes(self._tree):
            match kind:
                case "VariableSetStmt":
                    self._set(node)
                case "FuncCall":
                    self._call(node)
                case "RangeVar" if node.get("schemaname") == "pg_temp":
                    self._hit(rules.TEMPORARY, f"pg_temp.{node['relname']}", node)
                case "CreateStmt" if node.get("oncommit") != "ONCOMMIT_DROP":
                    self._temporary("TABLE", node["relation"])
                case "ViewStmt":
                    self._temporary("VIEW", node["view"])
                case "CreateSeqStmt":
                    self._temporary("SEQUENCE", node["sequence"])
                case "IntoClause" if node.get("onCommit") != "ONCOMMIT_DROP":
                    self._temporary("TABLE", node["rel"])
                case "CreateFunctionStmt" | "DoStmt":
                    self._body(kind, node)
                case "TransactionStmt":
                    self._transaction(node["kind"])
                case "DropStmt":
                    self._drop(node)
                case "UpdateStmt" if node["relation"]["relname"] == "pg_settings":
                    self._hit(rules.SETTING, "UPDATE pg_settings", node["relation"])
                case "InsertStmt":
                    inserts += 1
                case "PrepareStmt" | "ExecuteStmt" | "DeallocateStmt" if "name" in node:
                    what = f"{kind.removesuffix('Stmt').upper()} {node['name']}"
                    self._hit(rules.PREPARE, what)
                case "ListenStmt":
                    self._hit(rules.LISTEN, f"LISTEN {node['conditionname']}")
                case "UnlistenStmt":
                    self._hit(rules.LISTEN, f"UNLISTEN {node.get('conditionname', '*')}")
                case "LoadStmt":
                    self._hit(rules.LOAD, f"LOAD {node['filename']}")
                case "DeclareCursorStmt" if node.get("options", 0) & _CURSOR_HOLD:
                    self._hit(rules.HOLD, f"DECLARE {node['portalname']} CURSOR WITH HOLD")
        outer = "InsertStmt" in self._tree
        # An INSERT that reads currval may be the second one: another made the value.
        if self._made.makes_value or inserts > outer:
            self._drop_hits(rules.SEQUENCE_VALUE)
        self._made.makes_value |= inserts > 0
        return self._made

    def _drop_hits(self, rule: Rule) -> None:
        self._made.hits = [one for one in self._made.hits if one.rule is not rule]

    def _hit(self, rule: Rule, evidence: str, node: Tree | None = None, subject: str = "") -> None:
        location = (node or {}).get("location", -1)
        line = self._line(location if location >= 0 else self._start)
        self._made.hits.append(Hit(rule, evidence, line, subject))

    def _line(self, location: int) -> int:
        return self._data.count(b"\n", 0, location)

    def _set(self, node: Tree) -> None:
        kind, name = node.get("kind", "VAR_SET_VALUE"), node.get("name", "").lower()
        arguments = [_constant(one) for one in node.get("args", ())]
        if kind in ("VAR_SET_DEFAULT", "VAR_RESET", "VAR_RESET_ALL") or arguments == ["none"]:
            self._made.undone.add(f"setting {name}" if name else "setting *")
        elif kind == "VAR_SET_MULTI" and name == "session characteristics":
            self._hit(rules.SETTING, "SET SESSION CHARACTERISTICS")
        elif kind in ("VAR_SET_VALUE", "VAR_SET_CURRENT") and not node.get("is_local"):
            self._hit(_rule_of(name), f"SET {name}", subject=f"setting {name}")

    def _call(self, node: Tree) -> None:
        *schema, name = (one["String"]["sval"] for one in node["funcname"])
        if schema == ["pg_temp"]:
            self._hit(rules.TEMPORARY, f"pg_temp.{name}()", node)
        if schema not in ([], ["pg_catalog"]):
            return
        arguments = [_constant(one) for one in node.get("args", ())]
        if name == "nextval":
            self._made.makes_value = True
        elif name in ("currval", "lastval"):
            self._hit(rules.SEQUENCE_VALUE, f"{name}()", node)
        elif ADVISORY.fullmatch(name):
            self._hit(rules.ADVISORY_LOCK, f"{name}()", node)
        elif name == "set_config" and len(arguments) == 3 and arguments[2] in _FALSE:
            setting = (arguments[0] or "a setting").lower()
            self._hit(
                _rule_of(setting), f"set_config({setting}, false)", node, f"setting {setting}"
            )

    def _temporary(self, what: str, relation: Tree) -> None:
        if relation.get("relpersistence") == "t":
            name = relation["relname"]
            self._hit(
                rules.TEMPORARY, f"CREATE TEMPORARY {what} {name}", subject=f"relation {name}"
            )

    def _drop(self, node: Tree) -> None:
        for one in node["objects"]:
            names = [item["String"]["sval"] for item in one.get("List", {}).get("items", ())]
            if names:
                self._made.undone.add(f"relation {names[-1]}")

    def _transaction(self, kind: str) -> None:
        self._made.begins |= kind in ("TRANS_STMT_BEGIN", "TRANS_STMT_START")
        self._made.ends |= kind in ("TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK")

    def _body(self, kind: str, node: Tree) -> None:
        options = node.get("options", ()) if kind == "CreateFunctionStmt" else node["args"]
        given = {one["DefElem"]["defname"]: one["DefElem"] for one in options}
        names = [one["String"]["sval"] for one in node.get("funcname", ())]
        if names[:-1] == ["pg_temp"]:
            self._hit(rules.TEMPORARY, f"CREATE FUNCTION pg_temp.{names[-1]}")
        if "as" not in given:
            return
        body = _string(given["as"]["arg"])
        language = _string(given["language"]["arg"]).lower() if "language" in given else "plpgsql"
        location = given["as"].get("arg_location", -1)
        line = self._line(location if location > 0 else self._start)
        try:
            if language == "sql":
                inner = [(line, one) for one in read(body)]
            elif language == "plpgsql":
                inner = list(self._plpgsql(node, body, line))
            else:
                return
        except NotSqlError as error:
            what = names[-1] if names else "DO"
            self._made.unjudged.append(f"body of {what}: {error}")
            return
        for at, one in inner:
            one.move(at)
            self._made.unjudged += one.unjudged
        # A body runs in one transaction.
        hits = settle((one for _, one in inner), one_transaction=True)
        self._made.hits += [one for one in hits if one.rule is not rules.SEQUENCE_VALUE]

    def _plpgsql(self, node: Tree, body: str, line: int) -> Iterator[tuple[int, Statement]]:
        """Yield each statement and expression of a body with the line on which it begins."""
        try:
            found = expressions(self._text, node, body)
        except (parser.ParseError, RecursionError) as error:
            raise NotSqlError(str(error.args[0])) from error
        for at, text, is_dynamic in found:
            for one in _statements_of(text, is_dynamic=is_dynamic):
                # Lines of a body count from 1; inside of a statement only its first is known.
                one.hits = [replace(hit, line=0) for hit in one.hits]
                yield line + at - 1, one


def _statements_of(text: str, *, is_dynamic: bool) -> list[Statement]:
    """Return the statements of an expression of PL/pgSQL; of a dynamic one, what it comes to."""
    refused = NotSqlError("")
    # A statement, an expression, an assignment.
    for form in (text, f"SELECT {text}", re.sub(r"^.*?:?=", "SELECT ", text, count=1)):
        try:
            inner = read(form)
        except NotSqlError as error:
            refused = error
            continue
        put_together = built(json.loads(parser.parse_sql_json(form))) if is_dynamic else None
        if put_together is not None:
            # It may be a part only, of which nothing is known.
            with suppress(NotSqlError):
                inner += read(put_together)
        return inner
    return [Statement(unjudged=[f"in PL/pgSQL: {refused}"])]


_FALSE: Final = ("false", "f", "off", "no", "0")


def _rule_of(setting: str) -> Rule:
    if setting == "search_path":
        return rules.SEARCH_PATH
    if setting in _IDENTITY:
        return rules.ROLE
    return rules.TRACKED if setting in TRACKED else rules.SETTING


def _constant(node: Tree) -> str | None:
    """Return a constant as text; None where it is anything else."""
    if "TypeCast" in node:
        return _constant(node["TypeCast"]["arg"])
    found = node.get("A_Const")
    if found is None:
        return None
    if "boolval" in found:
        return "true" if found["boolval"].get("boolval") else "false"
    if "sval" in found:
        return str(found["sval"].get("sval", ""))
    return str(found["ival"].get("ival", 0)) if "ival" in found else None


def _string(node: Tree) -> str:
    """Return the first string of a node: the body of a function in C has two."""
    if "List" in node:
        node = node["List"]["items"][0]
    return str(node["String"].get("sval", ""))


def _nodes(tree: Tree) -> Iterator[tuple[str, Tree]]:
    """Yield every node with its kind, in the order of the text, but what sets for others."""
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += reversed(node)
            continue
        if not isinstance(node, dict):
            continue
        inner = []
        for kind, value in node.items():
            if kind in _SET_OF_OTHERS or (kind == "DefElem" and value.get("defname") == "set"):
                continue
            if kind in ("into", "intoClause"):
                yield "IntoClause", value
            elif kind in ("relation", "view", "sequence", "rel") and "relname" in value:
                yield "RangeVar", value
            elif kind[:1].isupper() and isinstance(value, dict):
                yield kind, value
            inner.append(value)
        stack += reversed(inner)
