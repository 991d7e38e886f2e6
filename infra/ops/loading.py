"""The command `load-reference`: load one file, say what came of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from infra.ops.clients.processes import OpsSettings
from infra.ops.load_reference import Loaded, RefusedError, Telling, load_reference
from infra.ops.outcome import Exit, Outcome, plain_console, report
from infra.ops.reference_csv import (
    REASON_MAX_CHARACTERS,
    SHOWN_MAX_CHARACTERS,
    Fault,
    ReferenceFileError,
    printable,
)

NOTHING_LOADED: Final = "nothing was loaded"


@dataclass(slots=True)
class LoadOutcome(Outcome):
    """What came of a load; `bad_values` are the faults of rows, field by field."""

    table: str = ""
    file: str = ""
    rows_loaded: int = 0
    rows_removed: int = 0
    rows_left: int = 0
    fault_count: int = 0
    bad_values: list[dict[str, object]] = field(default_factory=list)


def run(
    table: str, path: Path, settings: OpsSettings, *, replace: bool = False, as_json: bool = False
) -> int:
    """Load a file into a table of schema reference; return the exit code.

    Each bad row is told as `file:line: column NAME: value 'x': reason`, the first 50 of them.
    """
    outcome = LoadOutcome(table=table, file=str(path))
    console = plain_console(stderr=True)

    def say(line: str) -> None:
        outcome.steps.append(line)
        # Somebody at a terminal has the bar instead.
        if not console.is_terminal:
            console.print(line)

    telling = Telling(say, console)
    try:
        conninfo = settings.conninfo("owner", application_name="sluice-load")
        loaded = load_reference(table, path, conninfo=conninfo, telling=telling, replace=replace)
    except RefusedError as refused:
        _refuse(outcome, path, refused)
    except ReferenceFileError as error:
        _fail(outcome, Exit.BAD_INPUT, *str(error).splitlines())
    except OSError as error:
        # The file that was given, or the owner's password.
        where = str(error.filename or path)
        code = Exit.BAD_INPUT if where == str(path) else Exit.FAILED
        _fail(outcome, code, f"{where}: cannot be read: {error.strerror or error}")
    except psycopg.errors.LockNotAvailable:
        fault = f"{table}: another load is writing this table; try again when it is done"
        _fail(outcome, Exit.REFUSED, fault)
    except psycopg.Error as error:
        _fail(outcome, Exit.FAILED, f"{table}: the database says: {str(error).strip()}")
    else:
        _succeed(outcome, loaded)
    return report(outcome, as_json=as_json)


def _succeed(outcome: LoadOutcome, loaded: Loaded) -> None:
    outcome.rows_loaded, outcome.rows_removed = loaded.rows, loaded.removed
    outcome.rows_left = loaded.left
    outcome.state = f"reference.{outcome.table}: {loaded.rows} rows loaded"
    if loaded.removed:
        outcome.state += f", {loaded.removed} others removed with what referred to them"
    if loaded.left:
        outcome.state += (
            f"; {loaded.left} earlier rows stay, which may be synthetic (--replace removes them)"
        )


def _refuse(outcome: LoadOutcome, path: Path, refused: RefusedError) -> None:
    lines = [fault.text(path) for fault in refused.faults]
    if refused.total > len(lines):
        lines.append(f"{path}: and {refused.total - len(lines)} more")
    _fail(outcome, Exit.BAD_INPUT, *lines)
    outcome.state = f"{path}: {refused.total} faults; {NOTHING_LOADED}"
    outcome.fault_count = refused.total
    outcome.bad_values = [_bad_value(fault) for fault in refused.faults]


def _bad_value(fault: Fault) -> dict[str, object]:
    value = fault.value
    return {
        "line": fault.line,
        "column": fault.column or None,
        "value": None if value is None else printable(value, SHOWN_MAX_CHARACTERS),
        "reason": printable(fault.reason, REASON_MAX_CHARACTERS),
    }


def _fail(outcome: LoadOutcome, code: int, *faults: str) -> None:
    outcome.exit_code, outcome.state = code, NOTHING_LOADED
    outcome.faults += faults
    outcome.fault_count = len(outcome.faults)
