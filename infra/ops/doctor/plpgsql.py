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
# In a declaration: the name, then a type with its schema or of a column.
_TYPE: Final = re.compile(
    r'(?P<name>\b\w+\s+(?:constant\s+)?)(?P<type>(?:[\w"]+\.)+[\w"]+(?:%(?:row)?type)?)'
    r"(?=\s*(?:\[\]|;|:=|=|default\b|not\s+null\b))",
    re.IGNORECASE,
)
_DECLARE: Final = re.compile(r"\bdeclare\b.*?\bbegin\b", re.IGNORECASE | re.DOTALL)
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
    return list(_walk(json.loads(found), 1, is_dynamic=False))


def _plain(node: Tree, body: str) -> str:
    """Return the body under a head and with declarations that need no catalog."""
    body = _DECLARE.sub(lambda part: _TYPE.sub(_stand_in, part[0]), body)
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


def _walk(node: Any, line: int, *, is_dynamic: bool) -> Iterator[tuple[int, str, bool]]:
    if isinstance(node, list):
        for one in node:
            yield from _walk(one, line, is_dynamic=is_dynamic)
    if not isinstance(node, dict):
        return
    line = node.get("lineno", line)
    for kind, value in node.items():
        if kind == "PLpgSQL_expr":
            yield line, value["query"], is_dynamic
        else:
            # The text of an EXECUTE, as a statement of its own or in FOR, OPEN and RETURN QUERY.
            dynamic = kind in ("dynquery", "query") and "PLpgSQL_expr" in value
            yield from _walk(value, line, is_dynamic=dynamic)
