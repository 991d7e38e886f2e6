"""Parameters without a setting: what an extra file may set, and every line that is refused."""

from pathlib import Path

import pytest

from infra.config import catalogue, extra
from infra.config.build import Checked, check
from infra.config.render import template
from infra.config.settings import Change
from tests.unit.infra.support import LOGIN_ROLES, messages, write_env

POSTGRES, PGBOUNCER = extra.POSTGRES_FILE, extra.PGBOUNCER_FILE


def _judge(directory: Path, file: str, *lines: str) -> Checked:
    (directory / file).write_text("".join(f"{line}\n" for line in lines))
    return check(write_env(directory))


def _rendered(checked: Checked, name: str) -> list[str]:
    return template(name, checked.values, dict.fromkeys(LOGIN_ROLES, "")).decode().splitlines()


def test_without_extra_files_nothing_is_added_to_postgresql_conf(tmp_path: Path) -> None:
    checked = check(write_env(tmp_path))
    assert extra.given(checked.values) == ()
    assert "extra.conf" not in "\n".join(_rendered(checked, "postgresql.conf"))


@pytest.mark.parametrize(
    ("line", "rendered"),
    [
        ("seq_page_cost = 1.5", "seq_page_cost = '1.5'"),
        ("bgwriter_delay=50ms", "bgwriter_delay = '50ms'"),
        ("wal_writer_flush_after = '2 MB'", "wal_writer_flush_after = '2 MB'"),
        ("LOG_DURATION = on", "log_duration = 'on'"),
        ("plan_cache_mode = force_custom_plan", "plan_cache_mode = 'force_custom_plan'"),
        ("cluster_name = 'sluice of # 2'", "cluster_name = 'sluice of # 2'"),
        ("vacuum_cost_delay = 0", "vacuum_cost_delay = '0'"),
        ("autovacuum_vacuum_insert_threshold = -1", "autovacuum_vacuum_insert_threshold = '-1'"),
        ("auto_explain.log_buffers = on", "auto_explain.log_buffers = 'on'"),
    ],
)
def test_a_line_for_postgresql_comes_last_in_its_file(
    tmp_path: Path, line: str, rendered: str
) -> None:
    checked = _judge(tmp_path, POSTGRES, "# why", "", line)
    assert messages(checked) == ""
    assert _rendered(checked, "postgresql.conf")[-2:] == [
        "# From infra/env/postgresql.extra.conf.",
        rendered,
    ]


def test_a_line_for_pgbouncer_replaces_the_default_that_is_stated(tmp_path: Path) -> None:
    before = _rendered(check(write_env(tmp_path)), "pgbouncer.ini")
    checked = _judge(tmp_path, PGBOUNCER, "; why", "server_fast_close = 1", "sbuf_loopcnt = 9")
    after = _rendered(checked, "pgbouncer.ini")
    assert messages(checked) == ""
    assert "server_fast_close = 0" in before
    assert sorted(set(after) - set(before)) == ["sbuf_loopcnt = 9", "server_fast_close = 1"]
    assert set(before) - set(after) == {"server_fast_close = 0", "sbuf_loopcnt = 5"}


def test_every_parameter_of_pgbouncer_that_may_be_set_live_has_its_default_stated(
    tmp_path: Path,
) -> None:
    rendered = _rendered(check(write_env(tmp_path)), "pgbouncer.ini")
    names = {line.partition(" =")[0] for line in rendered}
    known = extra.parameters(PGBOUNCER).values()
    assert {one.name for one in known if not one.refused and not one.restart} <= names
    assert not {one.name for one in known if not one.refused and one.restart} & names


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "seq_page_coast = 1",
            "seq_page_coast = 1: PostgreSQL has no such parameter; did you mean",
        ),
        ("zzz = 1", "zzz = 1: PostgreSQL has no such parameter; remove it"),
        ("geqo_effort = 11", "geqo_effort = 11 is outside the range; write a whole number, 1..10"),
        ("max_locks_per_transaction = 1025", "write a whole number, 10..1024"),
        ("geqo_effort = 1.5", "geqo_effort = 1.5 is no whole number"),
        ("geqo_effort = five", "geqo_effort = five is not a number"),
        ("geqo_effort = 5s", "geqo_effort = 5s has the unit s"),
        ("bgwriter_delay = 50", "bgwriter_delay = 50 has no unit; write a number with its unit"),
        ("bgwriter_delay = 50MB", "bgwriter_delay = 50MB has the unit MB"),
        ("bgwriter_delay = 20s", "is outside the range; write a number with its unit (ms, s, min"),
        ("wal_skip_threshold = 100B", "wal_skip_threshold = 100B is no whole number of kB"),
        ("geqo = yes", "geqo = yes is not one of them; write on | off"),
        ("constraint_exclusion = all", "is not one of them; write partition | on | off"),
        ("geqo = on # why", "contains '#'; write the value bare or between single quotes"),
        ("geqo = 'on", 'contains "\'"'),
        ("cluster_name = 'a\\b'", "cluster_name = 'a\\b' contains"),
        ("cluster_name = 'S\u00e3o'", "contains '\u00e3'"),
        ("cluster_name = a\u2028b", "contains '\\u2028'"),
        ("geqo", "'geqo' is not an assignment; write name = value"),
        ("[pgbouncer]", "'[pgbouncer]' is not an assignment"),
        ("geqo =", "geqo has no value; give one or remove the line"),
        ("ge qo = on", "'ge qo' is not a parameter name; write name = value"),
        ("geqo = on\r", "geqo: the line ends in CR LF; save with LF line ends"),
        ("\ufeffgeqo = on", "starts with a byte order mark"),
    ],
)
def test_a_line_with_a_fault_is_named_with_file_line_and_rule(
    tmp_path: Path, line: str, fault: str
) -> None:
    (found,) = _judge(tmp_path, POSTGRES, line).faults
    assert str(found).startswith(f"infra/env/{POSTGRES}:1: ")
    assert fault in str(found)


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        (POSTGRES, "work_mem = 64MB", "work_mem = 64MB cannot be set here: it is memory of the"),
        (POSTGRES, "max_connections = 100", "set POSTGRES_MAX_CONNECTIONS in stack.env instead"),
        (POSTGRES, "min_wal_size = 80MB", "Sluice derives it: max_wal_size"),
        (POSTGRES, "tcp_user_timeout = 5s", "set TCP_USER_TIMEOUT_MS in stack.env instead"),
        (POSTGRES, "listen_addresses = '*'", "Where it listens."),
        (POSTGRES, "fsync = off", "Durability: an acknowledged write is on disk."),
        (POSTGRES, "ssl_ciphers = HIGH", "who may connect, and how"),
        (POSTGRES, "hba_file = /tmp/x", "it is the same in every stack"),
        (POSTGRES, "password_encryption = md5", "Transport and passwords."),
        (POSTGRES, "shared_preload_libraries = x", "it is the same in every stack"),
        (POSTGRES, "session_preload_libraries = x", "code to load comes with the image"),
        (POSTGRES, "archive_command = 'cp %p /x'", "goes to the repository"),
        (POSTGRES, "zero_damaged_pages = on", "some of them lose data"),
        (POSTGRES, "max_prepared_transactions = 5", "it is memory of the budget"),
        (POSTGRES, "log_transaction_sample_rate = 1", "verifier could reach the log"),
        (POSTGRES, "log_min_messages = log", "set POSTGRES_LOG_MIN_MESSAGES in stack.env"),
        (POSTGRES, "data_directory = /x", "where the files are is decided by the image"),
        (PGBOUNCER, "max_client_conn = 9", "set PGBOUNCER_MAX_CLIENT_CONNECTIONS in stack.env"),
        (PGBOUNCER, "max_user_connections = 9", "connections are budgeted"),
        (PGBOUNCER, "auth_type = trust", "Who may come in."),
        (PGBOUNCER, "auth_query = SELECT 1", "who may connect, and how"),
        (PGBOUNCER, "server_tls_ciphers = fast", "who may connect, and how"),
        (PGBOUNCER, "ignore_startup_parameters = x", "set PGBOUNCER_IGNORE_STARTUP_PARAMETERS"),
        (PGBOUNCER, "server_reset_query_always = 1", "set PGBOUNCER_SERVER_RESET_QUERY_ALWAYS"),
        (PGBOUNCER, "syslog = 1", "the log goes to standard error"),
        (PGBOUNCER, "verbose = 2", "set PGBOUNCER_LOG_VERBOSITY in stack.env instead"),
        (PGBOUNCER, "pool_size = 2", "PgBouncer has no such parameter"),
        (PGBOUNCER, "server_fast_close = yes", "is not one of them; write 0 | 1"),
        (PGBOUNCER, "sbuf_loopcnt = 2147483648", "is outside the range"),
        (PGBOUNCER, "sbuf_loopcnt = 010", "is not a number"),
        (POSTGRES, "autovacuum_vacuum_threshold = 010", "is not a number"),
        (POSTGRES, "log_statement_stats = on", "set those"),
        (PGBOUNCER, "max_packet_size = 1", "set PGBOUNCER_MAX_PACKET_KB in stack.env instead"),
        (PGBOUNCER, "disable_pqexec = 1", "Sluice operates PgBouncer"),
    ],
)
def test_what_the_budget_or_security_owns_is_refused_with_what_to_do(
    tmp_path: Path, file: str, line: str, fault: str
) -> None:
    (found,) = _judge(tmp_path, file, line).faults
    assert str(found).startswith(f"infra/env/{file}:1: {line.partition(' ')[0]}")
    assert fault in str(found)


def test_nothing_that_is_rendered_can_be_set(tmp_path: Path) -> None:
    checked = check(write_env(tmp_path))
    for file, name in ((POSTGRES, "postgresql.conf"), (PGBOUNCER, "pgbouncer.ini")):
        known = extra.parameters(file)
        text = "\n".join(_rendered(checked, name)).rpartition("[pgbouncer]")[2]
        lines = text.partition("; The rest: ")[0].splitlines()
        rendered = {line.partition(" =")[0] for line in lines if line[:1] not in "#;"}
        assert len(rendered) > 40
        assert [one for one in rendered & known.keys() if not known[one].refused] == []


def test_faults_of_all_files_come_at_once(tmp_path: Path) -> None:
    (tmp_path / POSTGRES).write_text("geqo = yes\nwork_mem = 64MB\ngeqo = off\n")
    (tmp_path / PGBOUNCER).write_text("zzz = 1\n")
    found = messages(check(write_env(tmp_path, API_THREADS="many")))
    for part in (
        "infra/env/stack.env:",
        "API_THREADS=many",
        f"infra/env/{POSTGRES}:1: geqo = yes",
        f"infra/env/{POSTGRES}:2: work_mem",
        f"infra/env/{POSTGRES}:3: geqo is already set on line 1",
        f"infra/env/{PGBOUNCER}:1: zzz",
    ):
        assert part in found


def test_an_extra_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / POSTGRES).mkdir()
    (tmp_path / PGBOUNCER).write_bytes(b"server_fast_close = \xff\n")
    found = messages(check(write_env(tmp_path)))
    assert f"infra/env/{POSTGRES}: cannot be read: Is a directory" in found
    assert f"infra/env/{PGBOUNCER}: is not UTF-8 text" in found


@pytest.mark.parametrize(
    ("file", "name", "change"),
    [
        (POSTGRES, "seq_page_cost", Change.LIVE),
        (POSTGRES, "bgwriter_delay", Change.LIVE),
        (POSTGRES, "cluster_name", Change.RESTART_POSTGRES),
        (PGBOUNCER, "server_fast_close", Change.LIVE),
        (PGBOUNCER, "track_extra_parameters", Change.RESTART_PGBOUNCER),
    ],
)
def test_the_server_says_whether_a_change_takes_a_restart(
    file: str, name: str, change: Change
) -> None:
    setting = extra.find(extra.key(file, name))
    assert setting is not None
    assert setting.change is change


def test_no_parameter_has_the_name_of_a_setting() -> None:
    assert extra.find("API_PORT") is None
    assert extra.find(extra.key(POSTGRES, "work_mem")) is None
    assert not any(":" in name for name in catalogue.by_name())
