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
        target = self.values["postgres"]
        address = {"host": target["host"], "port": target["port"], "dbname": target["dbname"]}
        return make_conninfo(**address, **self._login(user, application_name))

    def admin_conninfo(self, address: str, *, application_name: str, user: str = "operator") -> str:
        """Return the connection string of one PgBouncer's admin console; with the password.

        The certificate is checked against the service's name, whatever the address.
        """
        target = self.values["pgbouncer"]
        return make_conninfo(
            host=target["host"],
            hostaddr=address,
            port=target["port"],
            dbname=target["admin_dbname"],
            **self._login(user, application_name),
        )

    def _login(self, user: str, application_name: str) -> dict[str, Any]:
        login = self.values["users"][user]
        return {
            "user": login["name"],
            "password": Path(login["password_file"]).read_text(encoding="ascii"),
            "sslmode": self.values["sslmode"],
            "sslrootcert": self.values["sslrootcert"],
            "connect_timeout": self.values["connect_timeout_seconds"],
            "application_name": application_name,
        }


def read(path: Path) -> OpsSettings:
    """Read ops.json; raise OSError or ValueError when it is not there or not JSON."""
    return OpsSettings(json.loads(path.read_text(encoding="utf-8")))
