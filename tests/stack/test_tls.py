"""TLS and SCRAM in front of PgBouncer, SCRAM on the socket behind it, and what is refused."""

from __future__ import annotations

import pytest

from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import TIERS, Stack, run_in

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


def test_every_server_connection_is_over_the_socket(
    stack: Stack, sql: Sql, console: AdminConsole
) -> None:
    for replica, pooler in enumerate(stack.containers("pgbouncer")):
        # One without clients may have none; the health check sends a query.
        assert run_in(pooler, ["healthcheck"])[0] == 0
        servers = console.show("SERVERS", replica=replica)
        assert servers
        assert {row["addr"] for row in servers} == {"unix"}
    pooled = sql.rows(
        "SELECT count(*) AS sessions, count(client_addr) AS over_tcp FROM pg_stat_activity"
        " WHERE usename IN ('risk_api', 'risk_worker')"
    )[0]
    assert int(pooled["sessions"])
    assert not int(pooled["over_tcp"])


@pytest.mark.parametrize(
    ("user", "database", "reason"),
    [
        ("risk_api", "risk", "password authentication failed"),
        ("sluice_monitor", "risk", "password authentication failed"),
        ("risk_api", "postgres", "pg_hba.conf rejects connection"),
        ("risk_owner", "risk", "pg_hba.conf rejects connection"),
        ("sluice_operator", "postgres", "pg_hba.conf rejects connection"),
        ("postgres", "postgres", "Peer authentication failed"),
    ],
)
def test_the_socket_refuses(stack: Stack, user: str, database: str, reason: str) -> None:
    login = f"host=/run/postgresql port=5432 dbname={database} user={user} password=wrong"
    for pooler in stack.containers("pgbouncer"):
        code, output = run_in(pooler, ["psql", "--no-psqlrc", login, "--command", "SELECT 1"])
        assert code != 0
        assert reason in output


def test_only_the_two_servers_mount_the_socket(stack: Stack) -> None:
    volume = f"{stack.project}_postgres-socket"
    found = {
        (tier, mount["RW"])
        for tier in TIERS
        for container in stack.containers(tier)
        for mount in container.attrs["Mounts"]
        if mount.get("Name") == volume
    }
    assert found == {("postgres", True), ("pgbouncer", False)}


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
