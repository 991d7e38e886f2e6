"""Judge the SQL scripts and Python sources of a directory, or one of them."""

from __future__ import annotations

import io
import os
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from infra.config.faults import Fault, FaultyInputError
from infra.ops.clients.processes import first_line
from infra.ops.doctor.findings import Diagnosis, found
from infra.ops.doctor.python_files import read_source
from infra.ops.doctor.scripts import read_with_placeholders, split
from infra.ops.doctor.statements import NotSqlError, Statement, settle

SCRIPTS: Final = (".sql", ".psql", ".pgsql")
SUFFIXES: Final = (*SCRIPTS, ".py")
# A larger file is a dump with its rows; its schema alone is small.
FILE_BYTES: Final = 32 << 20
# What others wrote, or a program.
_NOT_OWN: Final = frozenset(("node_modules", "site-packages", "__pycache__", "venv"))


def examine(path: Path) -> Diagnosis:
    """Judge a file, or every SQL script and Python source below a directory.

    Raises:
        FaultyInputError: the path is not there, cannot be read, or has no such file.

    """
    try:
        files = list(_files(path))
    except OSError as error:
        raise FaultyInputError([Fault(str(path), f"{error.strerror}")]) from error
    if not files:
        wanted = f"one of {', '.join(SUFFIXES)}"
        fault = f"has no SQL: no file below it is {wanted}"
        if path.is_file():
            fault = f"is no SQL script and no Python source: its name does not end in {wanted}"
        raise FaultyInputError([Fault(str(path), fault)])
    made = Diagnosis()
    root = path if path.is_dir() else path.parent
    for file in files:
        _examine_file(file, str(file.relative_to(root)), made)
    return made


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        # Says why, where it cannot be read.
        path.open("rb").close()
        if path.suffix.lower() in SUFFIXES:
            yield path
        return
    for directory, inner, names in os.walk(path, onerror=_raise):
        inner[:] = sorted(n for n in inner if n not in _NOT_OWN and not n.startswith("."))
        yield from (Path(directory, n) for n in sorted(names) if Path(n).suffix.lower() in SUFFIXES)


def _raise(error: OSError) -> None:
    raise error


def _examine_file(file: Path, name: str, made: Diagnosis) -> None:
    try:
        if not file.is_file():
            made.skip(name, "is not a regular file")
            return
        if (size := file.stat().st_size) > FILE_BYTES:
            made.skip(name, f"{size >> 20} MiB, above {FILE_BYTES >> 20}; give the schema alone")
            return
        data = file.read_bytes()
    except OSError as error:
        made.skip(name, str(error.strerror))
        return
    if b"\0" in data:
        made.skip(name, "has NUL characters: it is not text")
        return
    made.count("files")
    if file.suffix.lower() == ".py":
        _examine_source(data, name, made)
    else:
        _examine_script(data, name, made)


def _examine_script(data: bytes, name: str, made: Diagnosis) -> None:
    statements: list[Statement] = []
    # Bytes that are not UTF-8 can only be in names and literals.
    for piece in split(data.decode("utf-8-sig", errors="replace")):
        try:
            read = read_with_placeholders(piece.text)
        except NotSqlError as error:
            made.skip(f"{name}:{piece.line}", str(error))
            continue
        made.count("statements")
        for one in read:
            one.move(piece.line)
            statements.append(one)
            for reason in one.unjudged:
                made.skip(f"{name}:{piece.line}", reason)
    made.add(found(hit.rule, name, hit.evidence, hit.line) for hit in settle(statements))


def _examine_source(data: bytes, name: str, made: Diagnosis) -> None:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        read = read_source(data.decode(encoding))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        made.skip(name, f"is not Python that can be read here: {first_line(error)}")
        return
    made.count("statements", read.judged)
    for line, reason in read.unjudged:
        made.skip(f"{name}:{line}", reason)
    made.add(found(hit.rule, name, hit.evidence, hit.line) for hit in read.hits)
