"""Put the key of the repository back: read from standard input, written into the secrets."""

import sys
from pathlib import Path
from typing import Final

from infra.config import secrets
from infra.config.secrets import BACKUP_KEY, SecretStore
from infra.config.write import write_secrets
from infra.ops.outcome import Exit, Outcome, report

_SECRETS: Final = Path("/secrets")


def main() -> int:
    """Judge the key and write it; return the exit code."""
    content = sys.stdin.buffer.read(4096).strip()
    store = SecretStore(_SECRETS)
    store.put(BACKUP_KEY, content)
    _, faults = secrets.backup_key(store)
    if faults:
        return report(Outcome(Exit.BAD_INPUT, [str(fault) for fault in faults]), as_json=False)
    write_secrets({BACKUP_KEY: content}, _SECRETS)
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
