"""Put secrets of the repository, given in a directory, among those of the stack."""

import sys
from pathlib import Path
from typing import Final

from infra.config import backups, secrets
from infra.config.secrets import BACKUP_KEY, SecretStore
from infra.config.write import write_secrets
from infra.ops.outcome import Exit, Outcome, report

_SECRETS: Final = Path("/secrets")
_GIVEN: Final = Path("/given")


def main() -> int:
    """Judge the secrets and write them; return the exit code."""
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
    write_secrets(store.pending, _SECRETS)
    return report(Outcome(state=f"taken: {', '.join(store.pending)}"), as_json=False)


def _refuse(*faults: str) -> int:
    return report(Outcome(Exit.BAD_INPUT, list(faults)), as_json=False)


if __name__ == "__main__":
    sys.exit(main())
