"""Put secrets of the repository, given in a directory, among those of the stack."""

import sys
from pathlib import Path
from typing import Final

from infra.config import backups, secrets
from infra.config.secrets import BACKUP_KEY, SecretStore
from infra.config.write import write_secrets
from infra.ops.outcome import Exit, Outcome, report

_REPLACE: Final = "--replace"

_SECRETS: Final = Path("/secrets")
_GIVEN: Final = Path("/given")


def main(*options: str) -> int:
    """Judge the secrets and write them; return the exit code.

    Another key than the one that is there is taken with `--replace` only.
    """
    store = SecretStore(_SECRETS)
    for name in backups.SECRETS:
        if (_GIVEN / name).is_file():
            content = (_GIVEN / name).read_bytes().strip()
            # A private key ends with a line break.
            store.put(name, content + b"\n" if b"\n" in content else content)
    if not store.pending:
        return _refuse(f"FROM has none of: {', '.join(backups.SECRETS)}")
    if empty := [name for name, content in store.pending.items() if not content]:
        return _refuse(*(f"FROM/{name}: is empty" for name in empty))
    if BACKUP_KEY in store.pending:
        _, faults = secrets.backup_key(store)
        if faults:
            return _refuse(*map(str, faults))
        held = SecretStore(_SECRETS).read(BACKUP_KEY)
        if held and held != store.pending[BACKUP_KEY] and _REPLACE not in options:
            return _refuse(
                f"refused: FROM/{BACKUP_KEY} is not the key that is there, without which what was "
                "written with it can never be read; keep that one (make backup-key prints it), "
                "then again with REPLACE=yes",
                code=Exit.REFUSED,
            )
    write_secrets(store.pending, _SECRETS)
    return report(Outcome(state=f"taken: {', '.join(store.pending)}"), as_json=False)


def _refuse(*faults: str, code: int = Exit.BAD_INPUT) -> int:
    return report(Outcome(code, list(faults)), as_json=False)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
