"""Compile the env file into each tier's files: `python -m infra.config`.

Exit codes: 0 written, 1 could not be written, 2 refused (every fault on stderr), 3 an operation is
under way.
"""

import argparse
import datetime
import sys
from functools import partial
from pathlib import Path

from infra.config.build import ENV_FILE_NAME, Compiled, compile_stack
from infra.config.faults import FaultyInputError
from infra.config.lock import LockHeldError, holder, operation_lock
from infra.config.write import write_all

EXIT_NOT_WRITTEN = 1
EXIT_REFUSED = 2
EXIT_BUSY = 3
# Longer than operations usually take; `make up` waits meanwhile.
OPERATION_SECONDS = 120.0


def main(arguments: list[str] | None = None) -> int:
    """Compile and write; return the exit code."""
    options = _parser().parse_args(arguments)
    locks = options.out / "ops"
    compile_now = partial(_compile, options.env_dir / ENV_FILE_NAME, options.out, options.secrets)
    # Nothing has been compiled yet, so nothing runs.
    if not locks.is_dir():
        return compile_now()
    try:
        if under_way := holder(locks):
            _say(f"waiting until it is over: {under_way}")
        # What a rotation or an apply writes meanwhile would be undone by what was read before it.
        with operation_lock(locks, "compile", wait_seconds=OPERATION_SECONDS):
            return compile_now()
    except LockHeldError as refusal:
        _say(f"{refusal}; nothing was written")
        return EXIT_BUSY
    except OSError as error:
        _say(_not_written(error, locks))
        return EXIT_NOT_WRITTEN


def _compile(env_file: Path, out: Path, secrets: Path) -> int:
    now = datetime.datetime.now(datetime.UTC)
    try:
        compiled = compile_stack(env_file, secrets, now=now, out=out)
    except FaultyInputError as refusal:
        _say(*(str(fault) for fault in refusal.faults))
        _say(f"{len(refusal.faults)} fault(s); nothing was written")
        return EXIT_REFUSED
    return _write(compiled, out, secrets)


def _write(compiled: Compiled, out: Path, secrets_dir: Path) -> int:
    kept = (name for name in compiled.new_secrets if name.endswith(".crt"))
    renewed = sorted(name for name in kept if (secrets_dir / name).exists())
    try:
        written = write_all(compiled.new_secrets, secrets_dir, compiled.files, out)
    except OSError as error:
        _say(_not_written(error, out))
        return EXIT_NOT_WRITTEN
    _say(*(f"warning: {warning}" for warning in compiled.warnings))
    if renewed:
        # make up looks for this line.
        _say(f"renewed: {', '.join(renewed)}; servers that run: make rotate-certificates DUE=yes")
    _say(f"{len(written)} of {len(compiled.files)} files written")
    return 0


def _not_written(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: cannot be written: {error.strerror}; nothing was changed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.config", description=__doc__)
    parser.add_argument("--env-dir", type=Path, required=True, help="directory of stack.env")
    parser.add_argument("--out", type=Path, required=True, help="one directory per tier below it")
    parser.add_argument("--secrets", type=Path, required=True, help="kept secrets; made if absent")
    return parser


def _say(*lines: str) -> None:
    for line in lines:
        sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
