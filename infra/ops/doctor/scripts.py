"""SQL as it stands in files: psql scripts, dumps, and texts with placeholders.

A script is split as psql does it: quotes, dollar quotes, nested comments and BEGIN ATOMIC hold a
statement together; backslash commands and the rows after COPY ... FROM STDIN are no SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from infra.ops.doctor.plpgsql import UNKNOWN
from infra.ops.doctor.statements import NotSqlError, Statement, read

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<quoted>\b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*")
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<command>\\[^\n]*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<end>;)
    | (?P<open>[(\[]) | (?P<close>[)\]])
    | (?P<other>\d[\w.]*|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_PART: Final = re.compile(r"/\*|\*/")
_COPY_ROWS: Final = re.compile(r"\\?copy\b.*\bfrom\s+p?stdin\b", re.IGNORECASE | re.DOTALL)
# Of psql's commands those that send what was typed so far.
_SENDS: Final = re.compile(r"\\(?:g\w*|watch|crosstabview|sendpipeline)\b")

# What may stand for what is not known: a name, a literal, a number, a list, an assignment or a
# condition, a query, a column, what ON CONFLICT does, nothing.
_STAND_INS: Final = (UNKNOWN, "'0'", "0", "(0)", "x = 0", "SELECT 0", "x int", "NOTHING", "")
# Each try changes one placeholder, and reads the whole text again.
_TRIES, _TRIES_OF_LONG, _LONG = 60, 6, 8192
_PLACEHOLDER: Final = re.compile(
    r"""
    (?P<variable>(?<![:\w]):(?P<mark>['"])\w+(?P=mark))
    | (?P<keep>'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?(?:\*/|\Z) | ::)
    | (?P<percent>%%) | (?P<block>\{%[^{}]*%\} | \{\#[^{}]*\#\})
    | (?P<value>%(?:\(\w+\))?[-#0\ +]*\d*(?:\.\d+)?[sdrifbtx]\b | \{\{[^{}]*\}\} | \$?\{[^{}]*\}
        | (?<![:\w]):[^\W\d]\w* | @[^\W\d]\w*(?::\w+)?@)
    | (?P<question>\?)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One statement of a script and the line on which it begins, from 1."""

    line: int
    text: str


def split(script: str) -> Iterator[Piece]:
    """Yield the statements of a psql script."""
    line, counted = 1, 0
    for begin, text in _split(script):
        line += script.count("\n", counted, begin)
        counted = begin
        yield Piece(line, text)


def _split(script: str) -> Iterator[tuple[int, str]]:
    """Yield each statement and where its first token is, without psql's commands in it."""
    position, depth, atomic = 0, 0, 0
    words: list[str] = []
    parts: list[str] = []
    begin = -1
    while match := _TOKEN.match(script, position):
        kind, position = match.lastgroup, match.end()
        if kind == "comment":
            position = _end_of_comment(script, position)
        elif kind == "dollar":
            close = script.find(match[0], position)
            position = len(script) if close < 0 else close + len(match[0])
        elif kind == "word":
            words.append(match[0].lower())
            atomic = _atomic(words, atomic)
        elif kind in ("open", "close"):
            depth = max(0, depth + (1 if kind == "open" else -1))
        sent = kind == "end" and not depth and not atomic
        if kind == "command":
            sent, position = _SENDS.match(match[0]) is not None, _after_command(script, match)
            # `\;` separates without sending.
            if begin >= 0:
                parts.append(";" if match[0].startswith("\\;") else " ")
        elif not sent and (begin >= 0 or kind not in ("space", "comment")):
            begin = match.start() if begin < 0 else begin
            parts.append(script[match.start() : position])
        if sent:
            if begin >= 0:
                yield begin, "".join(parts)
            if words[:1] == ["copy"] and _COPY_ROWS.match(" ".join(words)):
                position = _end_of_rows(script, position)
            words, parts, begin, depth, atomic = [], [], -1, 0, 0
    if begin >= 0:
        yield begin, "".join(parts)


def _after_command(script: str, command: re.Match[str]) -> int:
    if command[0].startswith("\\;"):
        return command.start() + 2
    return _end_of_rows(script, command.end()) if _COPY_ROWS.match(command[0]) else command.end()


def _atomic(words: list[str], depth: int) -> int:
    """Return how deep inside of BEGIN ATOMIC the last word is."""
    word = words[-1]
    if word == "atomic" and words[-2:-1] == ["begin"] and words[0] == "create":
        return depth + 1
    if depth and word == "case":
        return depth + 1
    return depth - 1 if depth and word == "end" else depth


def _end_of_comment(script: str, position: int) -> int:
    depth = 1
    while depth and (part := _COMMENT_PART.search(script, position)):
        depth += 1 if part[0] == "/*" else -1
        position = part.end()
    return len(script) if depth else position


def _end_of_rows(script: str, position: int) -> int:
    close = re.compile(r"^\\\.\r?$", re.MULTILINE).search(script, position)
    return close.end() if close else len(script)


def read_with_placeholders(text: str) -> list[Statement]:
    """Return what the statements of a text do, with something in place of what is not known.

    Raises:
        NotSqlError: the parser takes it in no form; the message is that of the text as it is.

    """
    first: NotSqlError | None = None
    best: list[Statement] | None = None
    form: _Form | None = None
    for _ in range(_TRIES if len(text) < _LONG else _TRIES_OF_LONG):
        try:
            found = read(text if form is None else form.text)
        except NotSqlError as error:
            first, at = first or error, error.at
        else:
            if not any(one.unjudged for one in found):
                return _named(found)
            # The body of a function has one too.
            best, at = best or found, None
        if form is None:
            form = _Form(text)
            if form.text != text:
                continue
        if not form.change(at):
            break
    if best is None:
        raise first or NotSqlError("nothing to read")
    return _named(best)


class _Form:
    """A text with a stand-in for each of its placeholders."""

    def __init__(self, text: str) -> None:
        # Alternately what is known and a placeholder.
        self._known: list[str] = []
        self._choices: list[int] = []
        self._choosable: list[tuple[str, ...]] = []
        begin = 0
        for found in _PLACEHOLDER.finditer(text):
            if stand_ins := _stand_ins(found):
                self._known.append(text[begin : found.start()])
                self._choosable.append(stand_ins)
                self._choices.append(0)
                begin = found.end()
        self._rest = text[begin:]

    @property
    def text(self) -> str:
        return "".join(self._parts()) + self._rest

    def _parts(self) -> Iterator[str]:
        for known, stand_ins, choice in zip(
            self._known, self._choosable, self._choices, strict=True
        ):
            yield known + stand_ins[choice]

    def change(self, at: int | None) -> bool:
        """Take the next stand-in of the placeholder nearest before an error; False: none is left.

        Without a place all are changed.
        """
        changeable, position = [], 0
        for index, part in enumerate(self._parts()):
            position += len(part)
            stand_ins, choice = self._choosable[index], self._choices[index]
            if at is not None and position - len(stand_ins[choice]) > at:
                break
            if choice + 1 < len(stand_ins):
                changeable.append(index)
        for index in changeable if at is None else changeable[-1:]:
            self._choices[index] += 1
        return bool(changeable)


def _stand_ins(found: re.Match[str]) -> tuple[str, ...]:
    """Return what may stand for a placeholder, the likeliest first; empty for what is none."""
    match found.lastgroup:
        case "percent":
            return ("%",)
        case "block":
            return (" ",)
        case "value":
            return _STAND_INS
        case "question":
            return ("?", *_STAND_INS)
        case "variable":
            return (f"{found['mark']}{UNKNOWN}{found['mark']}",)
    return ()


def _named(statements: list[Statement]) -> list[Statement]:
    """Return them with dots for what is not known."""
    for one in statements:
        one.hits = [replace(hit, evidence=hit.evidence.replace(UNKNOWN, "...")) for hit in one.hits]
    return statements
