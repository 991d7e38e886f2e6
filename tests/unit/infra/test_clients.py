"""Applications behind the path: what their files give, what is refused, what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.config import clients, recovery, sizing, write
from infra.config.build import Checked, Compiled, check, compile_stack
from tests.unit.infra.support import NOW, messages, write_env

ROOMY = {"POSTGRES_MAX_CONNECTIONS": 200, "POSTGRES_MEMORY_MB": 4096}


def write_client(directory: Path, name: str, **given: object) -> None:
    """Write the file of a client beside the env file."""
    path = directory / "clients" / f"{name}.env"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{setting}={value}\n" for setting, value in given.items()))


def judged(directory: Path, **changed: object) -> Checked:
    """Judge the env file of a directory, and the clients' files that are beside it."""
    return check(write_env(directory, **changed))


@pytest.fixture
def compiled(tmp_path: Path) -> Compiled:
    """Return what is compiled of two applications, one with a database of its own."""
    write_client(tmp_path, "billing", POOL_SIZE=3, MAX_CLIENT_CONNECTIONS=24)
    write_client(tmp_path, "reports", DATABASE="risk", QUERY_WAIT_TIMEOUT_SECONDS=60)
    return compile_stack(write_env(tmp_path, **ROOMY), tmp_path / "secrets", now=NOW)


def text(compiled: Compiled, path: str) -> str:
    """Return a compiled file."""
    (found,) = (file.content.decode() for file in compiled.files if file.path == path)
    return found


def test_without_files_the_services_are_the_clients(tmp_path: Path) -> None:
    values = judged(tmp_path).values
    assert [client.role for client in clients.every(values)] == ["risk_api", "risk_worker"]
    assert [one.name for one in clients.databases(values)] == ["risk"]


def test_an_empty_file_makes_a_client_of_defaults(tmp_path: Path) -> None:
    write_client(tmp_path, "billing")
    found = judged(tmp_path)
    assert not found.faults
    (client,) = clients.applications(found.values)
    assert (client.role, client.entry, client.database, client.owner) == (
        "billing",
        "billing",
        "billing",
        "billing_owner",
    )
    times = [found.values.seconds(name) for name in client.limits]
    assert times == sorted(times)
    assert float(times[-1]) == 8.0


def test_the_limits_follow_the_deadline(tmp_path: Path) -> None:
    write_client(tmp_path, "billing", DEADLINE_SECONDS=60)
    values = judged(tmp_path).values
    assert values.integer("clients/billing.env:STATEMENT_TIMEOUT_MS") == 18_000
    assert values.derived["clients/billing.env:STATEMENT_TIMEOUT_MS"].startswith("0.3 x ")


def test_it_takes_its_part_of_every_budget(tmp_path: Path) -> None:
    before = judged(tmp_path).values
    write_client(tmp_path, "billing", POOL_SIZE=3, RESERVE_POOL_SIZE=1, MAX_CLIENT_CONNECTIONS=24)
    after = judged(tmp_path).values
    assert sizing.pooled(after) - sizing.pooled(before) == 2 * (3 + 1)
    assert sizing.direct(after) - sizing.direct(before) == 2
    assert sizing.client_demand(after) - sizing.client_demand(before) == 24
    limits = sizing.role_limits(after)
    assert limits["billing"] == 2 * (3 + 1) + sizing.spare(after)
    assert limits["billing_owner"] == 2


def test_its_standby_entry_is_no_second_part_of_the_client_connections(tmp_path: Path) -> None:
    write_client(tmp_path, "billing", MAX_CLIENT_CONNECTIONS=300)
    checked = judged(tmp_path, POSTGRES_INSTANCES=3, PGBOUNCER_SERVER_HOP="tls")
    parts = [one for one in sizing.client_parts(checked.values) if one.name == "billing"]
    assert [part.size for part in parts] == [300]


def test_a_directory_that_cannot_be_listed_is_not_one_without_clients(tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("no directory")
    assert "clients: cannot be listed: Not a directory" in messages(judged(tmp_path))


def test_it_has_an_entry_a_user_and_lines_of_both_hba_files(compiled: Compiled) -> None:
    ini = text(compiled, "pgbouncer/pgbouncer.ini")
    entry = "billing = host=/run/postgresql port=5432 dbname=billing pool_size=3 "
    assert entry + "reserve_pool_size=0 min_pool_size=1 max_db_connections=3 pool_mode=" in ini
    assert "\nbilling = query_timeout=8 max_user_client_connections=24\n" in ini
    assert (
        "\nreports = query_timeout=8 query_wait_timeout=60 max_user_client_connections=50\n" in ini
    )
    hba = text(compiled, "pgbouncer/pgbouncer_hba.conf")
    assert "hostssl  billing       billing          0.0.0.0/0  scram-sha-256\n" in hba
    assert '"billing" "SCRAM-SHA-256$' in text(compiled, "pgbouncer/userlist.txt")
    hba = text(compiled, "postgres/pg_hba.conf")
    assert "local    billing        billing                     scram-sha-256\n" in hba
    assert "hostssl  billing        billing_owner    all        scram-sha-256\n" in hba
    assert "local    risk           reports                     scram-sha-256\n" in hba


def test_the_owner_of_a_database_never_comes_through_pgbouncer(compiled: Compiled) -> None:
    for path in ("pgbouncer.ini", "pgbouncer_hba.conf", "userlist.txt"):
        assert "billing_owner" not in text(compiled, f"pgbouncer/{path}")


def test_its_roles_and_database_are_made(compiled: Compiled) -> None:
    roles = text(compiled, "postgres/roles.sql")
    assert "SELECT 'CREATE ROLE \"billing\"'" in roles
    assert 'SELECT \'CREATE DATABASE "billing" OWNER "billing_owner" ' in roles
    assert 'GRANT CONNECT ON DATABASE "risk" TO "risk_api", "risk_worker", "reports",' in roles
    # Whatever the services' owner makes is for the services to grant.
    assert 'FOR ROLE "risk_owner" GRANT' not in roles


def test_its_passwords_are_kept_for_whoever_operates(compiled: Compiled) -> None:
    password = text(compiled, "ops/clients/billing.password")
    assert compiled.new_secrets["billing.password"].decode() == password
    paths = {file.path for file in compiled.files}
    assert "ops/clients/billing_owner.password" in paths
    assert not {path for path in paths if path.startswith("app/") and "billing" in path}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Billing", "'Billing' is no name of a client; write a small letter"),
        ("9lives", "'9lives' is no name of a client"),
        ("b" * 32, "is no name of a client"),
        ("public", "'public' is reserved"),
        ("replication", "'replication' is reserved"),
        ("pgbouncer", "'pgbouncer' is reserved"),
        ("risk", "'risk' is reserved"),
        ("risk_api", "'risk_api' is reserved"),
        ("worker", "'worker' is reserved"),
        ("pg_monitor", "names that begin with pg_ are reserved"),
        ("sluice_monitor", "names that begin with sluice_ are reserved"),
    ],
)
def test_a_name_that_cannot_be_a_role_is_refused(tmp_path: Path, name: str, says: str) -> None:
    write_client(tmp_path, name)
    said = messages(judged(tmp_path))
    assert f"clients/{name}.env: " in said
    assert says in said


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("POOL_SIZE", "many", ":1: clients/billing.env:POOL_SIZE=many is not a whole number"),
        ("POOL_SIZE", "0", "POOL_SIZE=0 is outside 1..1000"),
        ("POOL_SIZES", "2", "POOL_SIZES=2 is not a setting; did you mean POOL_SIZE?"),
        ("POOL_MODE", "statement", "POOL_MODE=statement is not one of transaction | session"),
        ("DATABASE", "postgres", "DATABASE=postgres is reserved"),
        ("DATABASE", "my-db", "DATABASE=my-db is no name of a database"),
        ("DEADLINE_SECONDS", "5s", "carries the unit 's'"),
        ("STATEMENT_TIMEOUT_MS", "9000", "must be below"),
        ("QUERY_WAIT_TIMEOUT_SECONDS", "3", "its queued queries would fail in a planned pause"),
        ("MIN_POOL_SIZE", "9", "a minimum cannot exceed its maximum"),
        ("POOL_SIZE", "100", "lower the pools by"),
        ("MAX_CLIENT_CONNECTIONS", "5000", "which exceeds PGBOUNCER_MAX_CLIENT_CONNECTIONS"),
    ],
)
def test_a_setting_at_fault_is_named(tmp_path: Path, setting: str, value: str, says: str) -> None:
    write_client(tmp_path, "billing", **{setting: value})
    assert says in messages(judged(tmp_path))


def test_faults_of_all_files_come_at_once(tmp_path: Path) -> None:
    write_client(tmp_path, "billing", POOL_SIZE="x")
    write_client(tmp_path, "orders", POOL_MODE="y")
    write_client(tmp_path, "public")
    said = messages(judged(tmp_path, API_THREADS=0))
    assert [
        word for word in ("POOL_SIZE=x", "POOL_MODE=y", "'public'", "API_THREADS=0") if word in said
    ]
    assert len(said.splitlines()) == 4


def test_session_mode_needs_a_server_connection_for_every_client(tmp_path: Path) -> None:
    write_client(tmp_path, "billing", POOL_MODE="session", POOL_SIZE=4, MAX_CLIENT_CONNECTIONS=5)
    assert "each connection holds a server connection" in messages(judged(tmp_path))
    write_client(tmp_path, "billing", POOL_MODE="session", POOL_SIZE=4, MAX_CLIENT_CONNECTIONS=4)
    assert not judged(tmp_path).faults


def test_a_client_cannot_have_the_role_of_an_owner(tmp_path: Path) -> None:
    write_client(tmp_path, "billing")
    write_client(tmp_path, "billing_owner")
    assert "the role billing_owner is the owner of the database billing" in messages(
        judged(tmp_path, **ROOMY)
    )


def test_clients_that_share_a_database_are_told_of(tmp_path: Path) -> None:
    write_client(tmp_path, "billing")
    write_client(tmp_path, "invoices", DATABASE="billing")
    found = judged(tmp_path, **ROOMY)
    assert not found.faults
    assert any(
        "the database billing is that of billing, invoices" in str(one) for one in found.warnings
    )
    (own,) = (one for one in clients.databases(found.values) if one.name == "billing")
    assert own.owner == "billing_owner"


def test_a_client_that_lacks_a_setting_is_none() -> None:
    values = {clients.key("billing", "POOL_SIZE"): 3, "API_THREADS": 40}
    assert clients.whole(values) == {"API_THREADS": 40}


def test_twenty_clients_fit_beside_each_other(tmp_path: Path) -> None:
    for number in range(20):
        write_client(tmp_path, f"client{number:02}", POOL_SIZE=1, MAX_CLIENT_CONNECTIONS=20)
    found = judged(tmp_path, **ROOMY)
    assert not found.faults
    assert len(clients.applications(found.values)) == 20


def test_every_role_logs_in_where_its_database_and_entry_are(tmp_path: Path) -> None:
    write_client(tmp_path, "billing", DATABASE="money")
    logins = clients.logins(judged(tmp_path, **ROOMY).values)
    assert logins["billing"] == clients.Place("money", "billing")
    assert logins["money_owner"] == clients.Place("money", "")
    assert logins["risk_worker"] == clients.Place("risk", "risk_batch")


def test_the_passwords_of_an_application_are_read_back_when_they_are_lost(tmp_path: Path) -> None:
    write_client(tmp_path, "billing")
    env_file, secrets, out = write_env(tmp_path, **ROOMY), tmp_path / "secrets", tmp_path / "out"
    made = compile_stack(env_file, secrets, now=NOW)
    write.write_all(made.new_secrets, secrets, made.files, out, chown=lambda *_: None)
    before = (secrets / "billing.password").read_bytes()
    (secrets / "billing.password").unlink()
    assert recovery.lost(secrets, out) == ("billing.password",)
    assert recovery.recover(secrets, out) == {"billing.password": before}
