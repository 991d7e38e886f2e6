"""The running values, and how many connections there are, seen around the operator's commands."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack, metrics_of, run_in

SAMPLE_SECONDS = 0.2
ROLES = """
SELECT r.rolname AS name, r.rolconnlimit AS connection_limit, count(a.pid) AS sessions
FROM pg_roles AS r LEFT JOIN pg_stat_activity AS a
  ON a.usename = r.rolname AND a.backend_type = 'client backend'
WHERE r.rolname LIKE 'risk\\_%' OR r.rolname LIKE 'sluice\\_%' GROUP BY 1, 2
"""


def app_pools(stack: Stack) -> dict[str, dict[str, int]]:
    """Return size, min_size and max_size of every app process's pool, by container name."""
    found = {}
    for service in ("api", "worker"):
        for container in stack.containers(service):
            text = metrics_of(container)
            found[str(container.name)] = {
                name: int(float(_metric(text, f"dbpool_{name}")))
                for name in ("size", "min_size", "max_size")
            }
    return found


def _metric(text: str, name: str) -> str:
    (line,) = [one for one in text.splitlines() if one.startswith(name + "{")]
    return line.rsplit(" ", 1)[1]


def entries(stack: Stack, console: AdminConsole) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return (pool_size, reserve, min_pool_size, cap) by replica and database entry."""
    names = ("pool_size", "reserve_pool_size", "min_pool_size", "max_connections")
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for number, container in enumerate(stack.containers("pgbouncer")):
        rows = console.show("DATABASES", replica=number)
        found[str(container.name)] = {
            row["name"]: tuple(int(row[name]) for name in names)
            for row in rows
            if row["name"] in ("risk", "risk_batch")
        }
    return found


def configs(stack: Stack, console: AdminConsole) -> dict[str, dict[str, str]]:
    """Return SHOW CONFIG by replica."""
    return {
        str(container.name): {
            row["key"]: row["value"] for row in console.show("CONFIG", replica=number)
        }
        for number, container in enumerate(stack.containers("pgbouncer"))
    }


def role_limits(sql: Sql) -> dict[str, int]:
    """Return the connection limit of every role of the stack."""
    return {row["name"]: int(row["connection_limit"]) for row in sql.rows(ROLES)}


@dataclass
class Sampler:
    """Looks at the connections of every tier until the block ends.

    `exceeded` lists each moment in which a tier had more connections than its limit of that
    moment; the limit and the count come from one statement.
    """

    sql: Sql
    console: AdminConsole
    replicas: int
    cap: dict[str, int]
    exceeded: list[str] = field(default_factory=list)
    highest: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _faults: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._faults, self._faults

    def _loop(self) -> None:
        try:
            self._maximum = int(self.sql.value("SHOW max_connections"))
            while not self._stop.is_set():
                self._look_at_postgres()
                for replica in range(self.replicas):
                    self._look_at_pgbouncer(replica)
                self.samples += 1
                self._stop.wait(SAMPLE_SECONDS)
        except BaseException as error:
            self._faults.append(error)

    def _look_at_postgres(self) -> None:
        rows = self.sql.rows(ROLES)
        for row in rows:
            self._note(row["name"], int(row["sessions"]), int(row["connection_limit"]))
        self._note("max_connections", sum(int(row["sessions"]) for row in rows), self._maximum)

    def _look_at_pgbouncer(self, replica: int) -> None:
        config = {row["key"]: row["value"] for row in self.console.show("CONFIG", replica=replica)}
        lists = {row["list"]: row["items"] for row in self.console.show("LISTS", replica=replica)}
        clients = int(lists["used_clients"])
        self._note(f"clients of pgbouncer {replica + 1}", clients, int(config["max_client_conn"]))
        for row in self.console.show("DATABASES", replica=replica):
            if row["name"] in self.cap:
                # RELOAD lowers the entry's own limit at once; what is surplus closes after it.
                name = f"{row['name']} of pgbouncer {replica + 1}"
                self._note(name, int(row["current_connections"]), self.cap[row["name"]])

    def _note(self, what: str, count: int, limit: int) -> None:
        self.highest[what] = max(self.highest.get(what, 0), count)
        if count > limit:
            self.exceeded.append(f"{time.monotonic():.1f}: {what} {count} of {limit}")


def compiled(stack: Stack) -> dict[str, str]:
    """Return the digest of every compiled file of the tiers, by its place."""
    found = {}
    for service in ("postgres", "pgbouncer", "api", "worker"):
        # Each service reads its own files only; a name's inode changes when it is replaced.
        script = "stat -c '%n %i %s' /etc/sluice/*"
        code, text = run_in(stack.container(service), ["sh", "-c", script])
        assert code == 0, text
        found[service] = text
    return found


def settings_document(stack: Stack, service: str) -> dict[str, Any]:
    """Return the settings file that a service's container would start with."""
    code, text = run_in(stack.container(service), ["cat", f"/etc/sluice/{service}.json"])
    assert code == 0, text
    return dict(json.loads(text))
