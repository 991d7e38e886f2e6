"""Transaction pooling as the app meets it: many clients, few servers, prepared statements."""

from __future__ import annotations

from tests.fix_api import ASSESSMENTS, Api
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import Stack


def pool_size(console: AdminConsole, name: str) -> int:
    """Return what one replica may open for a database entry, reserve included."""
    (entry,) = (row for row in console.show("DATABASES") if row["name"] == name)
    return int(entry["pool_size"]) + int(entry["reserve_pool_size"])


def test_a_hundred_clients_share_a_handful_of_server_connections(
    stack: Stack, probe: Probe, console: AdminConsole
) -> None:
    answer = probe("many_clients", "100", "20")
    replicas = len(stack.containers("pgbouncer"))
    assert answer["errors"] == []
    assert 1 < answer["backends"] <= pool_size(console, "risk") * replicas < 100


def test_prepared_statements_follow_a_client_across_server_connections(probe: Probe) -> None:
    answer = probe("many_clients", "40", "50")
    assert answer["errors"] == []
    assert answer["most_backends_of_one_client"] > 1


def test_prepared_statements_are_known_to_the_pooler(
    stack: Stack, api: Api, console: AdminConsole
) -> None:
    for _ in range(60):
        api.http.get(f"{ASSESSMENTS}/00000000-0000-0000-0000-000000000000")
    servers = [
        row
        for replica in range(len(stack.containers("pgbouncer")))
        for row in console.show("SERVERS", replica=replica)
    ]
    assert any(int(row["prepared_statements"]) > 0 for row in servers)


def test_new_connections_spread_over_every_replica(stack: Stack, probe: Probe) -> None:
    addresses = probe("replicas", "40")
    replicas = {
        container.attrs["NetworkSettings"]["Networks"][f"{stack.project}_pool"]["IPAddress"]
        for container in stack.containers("pgbouncer")
    }
    assert len(replicas) >= 2
    assert set(addresses) == replicas


def test_both_pools_reach_postgresql_as_their_own_role(sql: Sql, console: AdminConsole) -> None:
    pools = {(row["database"], row["user"]) for row in console.show("POOLS")}
    assert pools <= {
        ("risk", "risk_api"),
        ("risk_batch", "risk_worker"),
        ("risk_monitor", "sluice_monitor"),
        ("pgbouncer", "pgbouncer"),
        ("pgbouncer", "sluice_operator"),
        ("pgbouncer", "sluice_monitor"),
    }
    backends = sql.rows(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE backend_type = 'client backend'"
    )
    assert {row["usename"] for row in backends} <= {
        "postgres",
        "risk_api",
        "risk_worker",
        "sluice_monitor",
    }


def peers(console: AdminConsole, *, replica: int) -> set[str]:
    """Return the addresses of the peers of one replica."""
    return {row["host"] for row in console.show("PEERS", replica=replica)}


def test_every_replica_knows_every_replica_as_its_peer(stack: Stack, console: AdminConsole) -> None:
    containers = stack.containers("pgbouncer")
    known = [peers(console, replica=replica) for replica in range(len(containers))]
    assert all(one == known[0] for one in known)
    assert len(known[0]) == len(containers)
    for container in containers:
        networks = container.attrs["NetworkSettings"]["Networks"]
        assert known[0] & {one["IPAddress"] for one in networks.values()}, container.name


def test_a_cancel_request_that_reaches_another_replica_ends_its_own_statement(
    probe: Probe,
) -> None:
    found = probe("cancels", "40")
    assert (found["sent"], found["lost"], found["other"]) == (40, 0, [])
    assert found["wrong"] == 0
    assert found["beside"] > 40


def test_what_drivers_send_with_a_login_is_taken_and_the_rest_refused(probe: Probe) -> None:
    found = probe("startup", "extra_float_digits=3", "application_name=x", "statement_timeout=0")
    refused = found.pop("statement_timeout")
    assert found == {"extra_float_digits": "", "application_name": ""}
    assert "unsupported startup parameter: statement_timeout" in refused


def test_options_of_a_login_are_dropped_and_the_limits_of_the_role_stay(probe: Probe) -> None:
    limit = "SELECT 1 / (current_setting('statement_timeout') <> '0')::integer"
    found = probe("connect", "options=-c statement_timeout=0", f"sql:{limit}")
    assert (found["connected"], found["errors"]) == (True, [""])


def test_a_statement_longer_than_a_packet_may_be_ends_its_connection_alone(
    stack: Stack, probe: Probe, console: AdminConsole
) -> None:
    (limit,) = (row for row in console.show("CONFIG") if row["key"] == "max_packet_size")
    restarts = [one.attrs["RestartCount"] for one in stack.containers("pgbouncer")]
    found = probe("long_statement", limit["value"])
    assert found["within"] == ""
    # Cut while it still sends, the client may see the end of the connection only.
    assert found["beyond"]
    assert [one.attrs["RestartCount"] for one in stack.containers("pgbouncer")] == restarts
