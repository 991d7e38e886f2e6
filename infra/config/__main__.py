"""Compile the env file into each tier's files: `python -m infra.config`.

Exit codes: 0 written, 1 could not be written, 2 refused (every fault on stderr).
"""

import argparse
import datetime
import sys
from pathlib import Path

from infra.config.build import ENV_FILE_NAME, Compiled, compile_stack
from infra.config.faults import FaultyInputError
from infra.config.write import write_all

EXIT_NOT_WRITTEN = 1
EXIT_REFUSED = 2


def main(arguments: list[str] | None = None) -> int:
    """Compile and write; return the exit code."""
    options = _parser().parse_args(arguments)
    now = datetime.datetime.now(datetime.UTC)
    try:
        env_file = options.env_dir / ENV_FILE_NAME
        compiled = compile_stack(env_file, options.secrets, now=now, out=options.out)
    except FaultyInputError as refusal:
        _say(*(str(fault) for fault in refusal.faults))
        _say(f"{len(refusal.faults)} fault(s); nothing was written")
        return EXIT_REFUSED
    return _write(compiled, options.out, options.secrets)


def _write(compiled: Compiled, out: Path, secrets_dir: Path) -> int:
    kept = (name for name in compiled.new_secrets if name.endswith(".crt"))
    renewed = sorted(name for name in kept if (secrets_dir / name).exists())
    try:
        written = write_all(compiled.new_secrets, secrets_dir, compiled.files, out)
    except OSError as error:
        _say(f"{error.filename or out}: cannot be written: {error.strerror}; nothing was changed")
        return EXIT_NOT_WRITTEN
    _say(*(f"warning: {warning}" for warning in compiled.warnings))
    if renewed:
        # make up looks for this line.
        _say(f"renewed: {', '.join(renewed)}; servers that run: make rotate-certificates DUE=yes")
    _say(f"{len(written)} of {len(compiled.files)} files written")
    return 0


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
