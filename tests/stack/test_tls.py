"""TLS and SCRAM on both hops, and what is refused without them."""

from __future__ import annotations

import pytest

from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack

LOGIN_ROLES = {"risk_owner", "risk_api", "risk_worker", "sluice_monitor", "sluice_operator"}


def test_every_client_connection_over_the_network_is_encrypted(
    stack: Stack, console: AdminConsole
) -> None:
    # Clients choose a replica at random, so one may have none.
    replicas = range(len(stack.containers("pgbouncer")))
    found = [row for replica in replicas for row in console.show("CLIENTS", replica=replica)]
    clients = [row for row in found if row["addr"] != "unix"]
    assert clients
    assert all(row["tls"].startswith("TLSv1.3") for row in clients), clients


def test_every_server_connection_is_encrypted(stack: Stack, console: AdminConsole) -> None:
    for replica in range(len(stack.containers("pgbouncer"))):
        servers = console.show("SERVERS", replica=replica)
        assert servers
        assert all(row["tls"].startswith("TLSv1.3") for row in servers), servers


def test_postgresql_sees_no_plaintext_network_connection(sql: Sql) -> None:
    plain = sql.rows(
        "SELECT usename, client_addr FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE client_addr IS NOT NULL AND (NOT ssl OR version <> 'TLSv1.3')"
    )
    assert plain == []


def test_every_login_role_has_a_scram_verifier(sql: Sql) -> None:
    rows = sql.rows("SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert {row["rolname"] for row in rows} == LOGIN_ROLES
    assert all(row["rolpassword"].startswith("SCRAM-SHA-256$4096:") for row in rows)


def test_pgbouncer_holds_the_same_verifiers_as_postgresql(stack: Stack, sql: Sql) -> None:
    stored = {
        row["rolname"]: row["rolpassword"]
        for row in sql.rows("SELECT rolname, rolpassword FROM pg_authid")
    }
    userlist = stack.host(stack.container("pgbouncer")).file("/etc/sluice/userlist.txt")
    pairs = [line.split('"')[1:4:2] for line in userlist.content_string.splitlines() if '"' in line]
    assert {name for name, _ in pairs} >= {"risk_api", "risk_worker", "sluice_monitor"}
    assert "risk_owner" not in {name for name, _ in pairs}
    assert all(stored[name] == verifier for name, verifier in pairs)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sslmode": "disable", "sslrootcert": ""}, "SSL required"),
        ({"password": "wrong"}, "SASL authentication failed"),
        ({"user": "nobody_here"}, "login rejected"),
        ({"sslrootcert": "system"}, "certificate verify failed"),
        ({"host": "api-alias", "hostaddr": "resolve:pgbouncer"}, "host name"),
        ({"dbname": "risk_batch"}, "login rejected"),
        ({"dbname": "pgbouncer"}, "not allowed"),
    ],
)
def test_the_pooler_refuses(probe: Probe, change: dict[str, str], reason: str) -> None:
    arguments = [f"{name}={value}" for name, value in change.items()]
    answer = probe("connect", *arguments)
    assert not answer["connected"]
    assert reason.lower() in answer["error"].lower(), answer
