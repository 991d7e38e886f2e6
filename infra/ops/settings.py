"""ops.json: where the tiers are and as whom to log in, as the compiler wrote it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """The parsed ops.json."""

    values: dict[str, Any]

    def conninfo(self, user: str, *, application_name: str) -> str:
        """Return the connection string straight to PostgreSQL; it contains the password.

        `user` is a key of `users` in ops.json: owner, operator or monitor.
        """
        login = self.values["users"][user]
        target = self.values["postgres"]
        return make_conninfo(
            host=target["host"],
            port=target["port"],
            dbname=target["dbname"],
            user=login["name"],
            password=Path(login["password_file"]).read_text(encoding="ascii"),
            sslmode=self.values["sslmode"],
            sslrootcert=self.values["sslrootcert"],
            connect_timeout=self.values["connect_timeout_seconds"],
            application_name=application_name,
        )


def read(path: Path) -> OpsSettings:
    """Read ops.json; raise OSError or ValueError when it is not there or not JSON."""
    return OpsSettings(json.loads(path.read_text(encoding="utf-8")))
