"""The statements and expressions of a PL/pgSQL body, each with the line on which it begins.

libpg_query has no catalog, so it refuses types of schemas other than public and pg_catalog. Where
it does, the body is read with stand-ins: what a variable's type is does not matter here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pglast import parser

Tree = dict[str, Any]
# Stands for what is known at run time only.
UNKNOWN: Final = "sluice_unknown"
_FORMAT: Final = re.compile(r"%(?P<number>\d+\$)?-?\d*(?P<kind>[sIL%])")
# In a declaration: the name, then a type with its schema or of a column.
_TYPE: Final = re.compile(
    r'(?P<name>\b\w+\s+(?:constant\s+)?)(?P<type>(?:[\w"]+\.)+[\w"]+(?:%(?:row)?type)?)'
    r"(?=\s*(?:\[\]|;|:=|=|default\b|not\s+null\b))",
    re.IGNORECASE,
)
_DECLARE_OR_BEGIN: Final = re.compile(r"\b(declare|begin)\b", re.IGNORECASE)
# Where the text of an EXECUTE is.
_EXECUTED: Final = (
    "PLpgSQL_stmt_dynexecute query",
    "PLpgSQL_stmt_dynfors query",
    "PLpgSQL_stmt_return_query dynquery",
    "PLpgSQL_stmt_open dynquery",
)
_RECORD: Final = re.compile(r"%rowtype$", re.IGNORECASE)


def expressions(statement: str, node: Tree, body: str) -> list[tuple[int, str, bool]]:
    """Return line in the body (from 1), text, and whether the text is that of an EXECUTE.

    Raises:
        pglast.parser.ParseError: the body is not PL/pgSQL.

    """
    try:
        found = parser.parse_plpgsql_json(statement)
    except parser.ParseError:
        found = parser.parse_plpgsql_json(_plain(node, body))
    return list(_walk(json.loads(found), 1, inside=""))


def _plain(node: Tree, body: str) -> str:
    """Return the body under a head and with declarations that need no catalog."""
    parts = _DECLARE_OR_BEGIN.split(body)
    for index in range(2, len(parts), 2):
        if parts[index - 1].lower() == "declare":
            parts[index] = _TYPE.sub(_stand_in, parts[index])
    body = "".join(parts)
    quoted = f"$sluice_body${body}$sluice_body$"
    if "funcname" not in node:
        return f"DO {quoted}"
    parameters = [one["FunctionParameter"].get("name") for one in node.get("parameters", ())]
    named = ", ".join(f'"{one}" text' for one in parameters if one)
    if node.get("is_procedure"):
        return f"CREATE PROCEDURE f({named}) LANGUAGE plpgsql AS {quoted}"
    returns = node.get("returnType", {})
    name = [one["String"]["sval"] for one in returns.get("names", ())][-1:]
    if returns.get("setof"):
        kind = "SETOF record"
    elif name in (["trigger"], ["event_trigger"], ["void"]):
        kind = name[0]
    else:
        kind = "text" if name else "void"
    return f"CREATE FUNCTION f({named}) RETURNS {kind} LANGUAGE plpgsql AS {quoted}"


def _stand_in(found: re.Match[str]) -> str:
    return found["name"] + ("record" if _RECORD.search(found["type"]) else "text")


def _walk(node: Any, line: int, *, inside: str) -> Iterator[tuple[int, str, bool]]:
    if isinstance(node, list):
        for one in node:
            yield from _walk(one, line, inside=inside)
    if not isinstance(node, dict):
        return
    line = node.get("lineno", line)
    for kind, value in node.items():
        if kind == "PLpgSQL_expr":
            yield line, value["query"], inside in _EXECUTED
        else:
            # A key such as `query` means another thing in each statement.
            key = kind if kind.startswith("PLpgSQL") else f"{inside.partition(' ')[0]} {kind}"
            yield from _walk(value, line, inside=key)


def built(tree: Tree) -> str | None:
    """Return the text that a SELECT of one expression puts together; None where it is unknown."""
    try:
        (target,) = tree["stmts"][0]["stmt"]["SelectStmt"]["targetList"]
        text = _text_of(target["ResTarget"]["val"])
    except (KeyError, ValueError):
        return None
    return None if text.startswith(UNKNOWN) else text


def _text_of(node: Tree) -> str:
    ((kind, inner),) = node.items()
    if kind == "A_Const" and "sval" in inner:
        return str(inner["sval"].get("sval", ""))
    if kind == "TypeCast":
        return _text_of(inner["arg"])
    if kind == "A_Expr" and inner.get("name") == [{"String": {"sval": "||"}}]:
        return _text_of(inner["lexpr"]) + _text_of(inner["rexpr"])
    if kind == "FuncCall":
        name = inner["funcname"][-1]["String"]["sval"]
        arguments = inner.get("args", [])
        if name == "format" and arguments:
            return _formatted([_text_of(one) for one in arguments])
        if name in ("concat", "concat_ws"):
            return "".join(_text_of(one) for one in arguments)
        if name in ("quote_literal", "quote_nullable"):
            return f"'{UNKNOWN}'"
    return UNKNOWN


def _formatted(arguments: list[str]) -> str:
    """Return what format() makes of its arguments."""
    values = iter(arguments[1:])

    def filled(found: re.Match[str]) -> str:
        if found["kind"] == "%":
            return "%"
        number = found["number"]
        value = next(values, UNKNOWN) if number is None else UNKNOWN
        return f"'{value}'" if found["kind"] == "L" else value

    return _FORMAT.sub(filled, arguments[0])
