"""A look into PgBouncer's server connections: all of them at once, and what was missed is said."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import psycopg
import pytest

from infra.ops.clients import pooled
from infra.ops.clients.pooled import Login, look
from infra.ops.clients.processes import OpsSettings
from tests.unit.ops.support import POOLERS

LOGIN = Login("risk", "risk_api", "a-secret-password")
ROW = {
    "name": "statement_timeout",
    "setting": "0",
    "unit": "ms",
    "context": "user",
    "source": "session",
}


class Pool:
    """Stands for a pool of PgBouncer: a transaction holds a server connection until its end."""

    def __init__(self, servers: int, *, refused: int = 0) -> None:
        self.servers = servers
        self.idle = list(range(1, servers + 1))
        self.most = 0
        self._lock = threading.Lock()
        self._refused = itertools.chain([True] * refused, itertools.repeat(False))

    def pools(self) -> list[dict[str, Any]]:
        """Return the rows of SHOW POOLS, another entry's among them."""
        counts = {"sv_active": 0, "sv_used": 1, "sv_tested": 0, "sv_idle": self.servers - 1}
        other = {"database": "risk_batch", "user": "risk_worker", **dict.fromkeys(counts, 9)}
        return [{"database": "risk", "user": "risk_api", **counts}, other]

    def connect(self, *_: object, **__: object) -> Session:
        """Return a client connection."""
        with self._lock:
            if next(self._refused):
                raise psycopg.OperationalError("no more connections allowed")
        return Session(self)

    def take(self) -> int:
        """Return a server connection; the last one released comes first, as in PgBouncer."""
        with self._lock:
            pid = self.idle.pop()
            self.most = max(self.most, self.servers - len(self.idle))
            return pid

    def release(self, pid: int) -> None:
        """Take a server connection back."""
        with self._lock:
            self.idle.append(pid)


class Session:
    """A client connection in transaction mode."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pid = 0

    def execute(self, _query: str, _parameters: object) -> Session:
        """Begin a transaction on some server connection."""
        self._pid = self._pool.take()
        return self

    def fetchall(self) -> list[dict[str, Any]]:
        """Return the settings; server connection 1 was changed by a client."""
        value = "0" if self._pid == 1 else "3000"
        return [{"pid": self._pid, **ROW, "setting": value}]

    def rollback(self) -> None:
        """End the transaction."""
        self._pool.release(self._pid)

    def fileno(self) -> int:
        """Return no socket."""
        raise psycopg.OperationalError

    def close(self) -> None:
        """End the session."""


@pytest.fixture
def settings(tmp_path: Any) -> OpsSettings:
    password = tmp_path / "password"
    password.write_text("another-password")
    where = {"host": "pgbouncer.invalid", "port": 6432, "admin_dbname": "pgbouncer"}
    user = {"name": "sluice_operator", "password_file": str(password)}
    return OpsSettings(
        {
            "pgbouncer": where,
            "users": {"operator": user},
            "sslmode": "verify-full",
            "sslrootcert": "ca.crt",
            "connect_timeout_seconds": 3,
        }
    )


def looked(monkeypatch: pytest.MonkeyPatch, settings: OpsSettings, pool: Pool) -> pooled.Looked:
    class Admin:
        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> Pool:
            return pool

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(pooled, "PgBouncerAdmin", Admin)
    monkeypatch.setattr(psycopg, "connect", pool.connect)
    return look(settings, POOLERS[0], LOGIN)


def test_every_server_connection_is_looked_into_at_once(
    monkeypatch: pytest.MonkeyPatch, settings: OpsSettings
) -> None:
    pool = Pool(4)
    found = looked(monkeypatch, settings, pool)
    assert pool.most == 4
    values = sorted(one["statement_timeout"].value for one in found.settings)
    assert values == ["0", "3000", "3000", "3000"]
    assert found.missed == ""


def test_server_connections_that_were_not_seen_are_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, settings: OpsSettings
) -> None:
    found = looked(monkeypatch, settings, Pool(4, refused=4))
    assert found.settings == ()
    assert found.missed == (
        "what clients have SET is known of 0 of 4 server connections of risk: "
        "no more connections allowed"
    )


def test_of_a_large_pool_only_so_many_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch, settings: OpsSettings
) -> None:
    pool = Pool(pooled.SESSIONS_MAX + 8)
    found = looked(monkeypatch, settings, pool)
    assert pool.most <= pooled.SESSIONS_MAX
    assert "of 40 server connections" in found.missed


def test_an_empty_pool_has_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, settings: OpsSettings
) -> None:
    pool = Pool(0)
    monkeypatch.setattr(pool, "pools", list)
    assert looked(monkeypatch, settings, pool) == pooled.Looked(())


def test_the_password_shows_in_no_traceback() -> None:
    assert LOGIN.password not in repr(LOGIN)
