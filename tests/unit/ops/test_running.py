"""The running configuration: one form for it, where settings stand in it, how it differs."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.config import catalogue, documents, extra, names, roles
from infra.config.catalogue import backup
from infra.config.extra import PGBOUNCER_FILE, POSTGRES_FILE, key
from infra.config.settings import SERVER_DEFAULT, Change, Value, Values
from infra.ops import plan, process_settings
from infra.ops.clients.postgres import RoleSettings, ServerSetting
from infra.ops.process_settings import SOURCES, Fact, Facts, expected, fact, read
from infra.ops.running import Process, Running, SettingChange, read_record

Recorded = Callable[..., Running]


def values(**changed: Value) -> Values:
    return Values(catalogue.defaults().as_dict() | changed)


@pytest.mark.parametrize(
    ("one", "other"),
    [("256MB", 262_144), ("2min", "120s"), ("300s", 300_000), ("1.10", "1.1"), ("ON", "on")],
)
def test_the_same_value_in_another_unit_is_the_same_fact(one: object, other: object) -> None:
    assert fact(one) == fact(other)


def test_text_that_looks_like_a_number_with_a_unit_stays_text() -> None:
    assert fact("3 blind mice") == "3 blind mice"
    assert fact("TLSv1.3") == "tlsv1.3"


def test_settings_of_the_server_and_not_of_the_session_are_compared_in_their_own_unit() -> None:
    rows = {
        "shared_buffers": ServerSetting("shared_buffers", "32768", "8kB", "postmaster", "default"),
        "checkpoint_timeout": ServerSetting(
            "checkpoint_timeout", "300", "s", "sighup", "configuration file"
        ),
        "lock_timeout": ServerSetting("lock_timeout", "2000", "ms", "user", "user"),
        "work_mem": ServerSetting("work_mem", "64", "kB", "user", "database"),
        "jit": ServerSetting("jit", "on", None, "user", "global"),
    }
    role = RoleSettings("risk_api", 24, {"lock_timeout": "1000ms"}, {"login": "on"})
    assert process_settings.of_postgres(rows, {"risk_api": role}) == {
        "settings.shared_buffers": Decimal(262_144),
        "settings.checkpoint_timeout": Decimal(300_000),
        "roles.risk_api.connection_limit": Decimal(24),
        "roles.risk_api.login": "on",
        "roles.risk_api.lock_timeout": Decimal(1000),
    }


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_a_fact_that_follows_its_setting(name: str) -> None:
    """Compile with another value of the setting, and read that value back from the facts."""
    setting, source = catalogue.by_name()[name], SOURCES[name]
    other = _another(name)
    assert read(setting, source, expected(values())[source.tier][source.name]) == setting.default
    assert (
        read(setting, source, expected(values(**{name: other}))[source.tier][source.name]) == other
    )


def _another(name: str) -> Value:
    setting = catalogue.by_name()[name]
    if isinstance(setting.default, str):
        # One of fixed choices, or a list, which can be empty.
        others = (choice for choice in setting.choices if choice != setting.default)
        return next(others, names.NO_PARAMETERS)
    return setting.default + 1


def test_what_changes_live_and_reaches_a_process_can_be_read_from_it() -> None:
    """These are derived, seen by operator commands or Prometheus only, or hidden by PgBouncer.

    Or they are of several machines alone.
    """
    not_read = {
        "ALERT_WEBHOOK_URL",
        "CERTIFICATE_DAYS",
        "CERTIFICATE_RENEW_DAYS",
        "PAUSE_DEAD_MAN_SECONDS",
        "PAUSE_DRAIN_SECONDS",
        "PAUSE_MAX_SECONDS",
        "PAUSE_QUERY_WAIT_TIMEOUT_SECONDS",
        "PGBOUNCER_ADMIN_HEADROOM_CONNECTIONS",
        "POSTGRES_DISK_MB",
        "POSTGRES_MAINTENANCE_WORK_MEM_MB",
        "POSTGRES_MONITOR_CONNECTIONS",
        "POSTGRES_STORAGE",
        "POSTGRES_WORK_MEM_KB",
        "PROMETHEUS_SCRAPE_SECONDS",
        "SWARM_ENCRYPTED",
        "WORKER_QUERY_TIMEOUT_SECONDS",
        "WORKER_QUERY_WAIT_TIMEOUT_SECONDS",
    }
    # pgBackRest reads them whenever it runs; no process holds them.
    not_read |= {one.name for one in backup.SETTINGS if one.change is Change.LIVE} - {
        "BACKUP_ARCHIVE_TIMEOUT_SECONDS"
    }
    live = {setting.name for setting in catalogue.all_settings() if setting.change is Change.LIVE}
    assert live - SOURCES.keys() == not_read


def _running(of: Values, **changed: Facts) -> Running:
    found = expected(of)
    processes = [
        Process(
            tier,
            f"{tier}-1",
            found[tier] | changed.get(tier, {}),
            frozenset({"pool.timeout_seconds"}),
        )
        for tier in found
    ]
    return Running(tuple(processes), dict.fromkeys(found, 1))


def test_what_runs_as_compiled_does_not_deviate() -> None:
    assert _running(values()).deviations(values()) == ()


def test_a_process_that_differs_is_named_with_both_values() -> None:
    found = _running(values(), pgbouncer={"config.query_wait_timeout": Decimal(9)})
    (one,) = found.deviations(values())
    assert str(one) == "pgbouncer-1: config.query_wait_timeout is 9, compiled is 4"
    assert not one.needs_restart


def test_a_fact_of_one_word_deviates_like_the_others() -> None:
    (one,) = _running(values(), api={"processes": Decimal(9)}).deviations(values())
    assert (one.setting, one.found, one.cause) == ("processes", "9", "")


def test_what_only_a_restart_changes_is_distinguished() -> None:
    found = _running(values(), api={"pool.timeout_seconds": Decimal(9)})
    (one,) = found.deviations(values())
    assert one.needs_restart
    assert str(one).endswith("; it takes a restart")


def test_a_setting_that_is_gone_deviates() -> None:
    found = _running(values())
    del found.of("worker")[0].found["worker.lease_seconds"]
    (one,) = found.deviations(values())
    assert one.found == "not there"


def test_settings_are_read_from_every_process() -> None:
    one = _running(values()).of("pgbouncer")[0]
    other = Process(
        "pgbouncer", "pgbouncer-2", one.found | {"databases.risk.pool_size": Decimal(9)}
    )
    settings = Running((one, other), {"pgbouncer": 2}).settings()
    assert settings["PGBOUNCER_INTERACTIVE_POOL_SIZE"] == (2, 9)
    assert settings["PGBOUNCER_BATCH_POOL_SIZE"] == (2,)


def test_who_is_not_there_or_silent_is_named() -> None:
    silent = Process("pgbouncer", "pgbouncer-1", {}, error="timed out")
    found = Running((silent,), {"pgbouncer": 2, "postgres": 1})
    assert found.faults() == [
        "pgbouncer-1: timed out",
        "postgres: 0 of 1 processes have an address",
        "pgbouncer: 1 of 2 processes have an address; there: pgbouncer-1",
    ]


def compiled_settings(**changed: Value) -> dict[str, Any]:
    """Return the settings as compiled.json holds them."""
    settings = documents.compiled(values(**changed))["settings"]
    return dict(json.loads(json.dumps(settings)))


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """Return a function that gives what is known of a last compile where no process is asked."""

    def read_again(**changed: Value) -> Running:
        path = tmp_path / "compiled.json"
        path.write_text(json.dumps({"settings": compiled_settings(**changed)}))
        known = read_record(path)
        assert known is not None
        return Running((), recorded=known)

    return read_again


def named(found: tuple[SettingChange, ...]) -> dict[str, tuple[str, Value]]:
    return {one.setting.name: (one.was, one.new) for one in found}


def test_an_unchanged_file_changes_nothing(recorded: Recorded) -> None:
    assert recorded().changes(values()) == ()


def test_a_decimal_survives_the_record(recorded: Recorded) -> None:
    before = recorded(API_CPUS=Decimal("1.5"))
    assert before.values["API_CPUS"] == Decimal("1.5")
    assert named(before.changes(values())) == {"API_CPUS": ("1.5", Decimal("1.0"))}


def test_what_processes_have_counts_more_than_the_record(recorded: Recorded) -> None:
    processes = (Process("api", "api-1", {"pool.max_size": Decimal(16)}),)
    before = Running(processes, recorded=recorded(API_POOL_MAX_SIZE=20).recorded)
    assert before.changes(values()) == ()


def test_processes_that_differ_are_a_change_to_all_of_their_values(recorded: Recorded) -> None:
    processes = tuple(
        Process("pgbouncer", f"p{size}", {"databases.risk_batch.pool_size": Decimal(size)})
        for size in (8, 6)
    )
    before = Running(processes, recorded=recorded().recorded)
    (change,) = before.changes(values())
    assert change.was == "8 and 6"
    assert change.as_dict()["was"] == [8, 6]
    assert before.values["PGBOUNCER_BATCH_POOL_SIZE"] == 6


def test_a_setting_that_the_record_does_not_know_is_new(recorded: Recorded) -> None:
    known = {name: one for name, one in recorded().recorded.items() if name != "API_THREADS"}
    (change,) = Running((), recorded=known).changes(values())
    assert (change.setting.name, change.was) == ("API_THREADS", "none")


def test_a_recorded_value_that_is_not_one_any_more_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "compiled.json"
    path.write_text(json.dumps({"settings": compiled_settings() | {"API_THREADS": "many"}}))
    known = read_record(path)
    assert known is not None
    assert Running((), recorded=known).values["API_THREADS"] == 40


def test_the_order_is_that_of_the_env_file(recorded: Recorded) -> None:
    found = recorded().changes(values(WORKER_THREADS=3, POSTGRES_MAX_CONNECTIONS=61))
    assert [one.setting.name for one in found] == ["POSTGRES_MAX_CONNECTIONS", "WORKER_THREADS"]
    assert [one.live for one in found] == [False, False]


def test_without_a_record_nothing_is_known(tmp_path: Path) -> None:
    assert read_record(tmp_path / "compiled.json") is None


def showing(settings: dict[str, Any], config: dict[str, Any], **recorded: Value) -> Running:
    """Return processes with these parameters beside what was compiled last."""
    facts_of_postgres = {f"settings.{name}": fact(value) for name, value in settings.items()}
    facts_of_pgbouncer = {f"config.{name}": fact(value) for name, value in config.items()}
    processes = (
        Process("postgres", "postgres-1", facts_of_postgres),
        *(Process("pgbouncer", f"pgbouncer-{n}", facts_of_pgbouncer) for n in (1, 2)),
    )
    known = {name: values()[name] for name in catalogue.by_name() if name not in SOURCES}
    return Running(processes, recorded=known | recorded)


DELAY = key(POSTGRES_FILE, "bgwriter_delay")
CLOSE = key(PGBOUNCER_FILE, "server_fast_close")


def of_extra_files(found: tuple[SettingChange, ...]) -> list[SettingChange]:
    return [one for one in found if ":" in one.setting.name]


def test_a_parameter_of_an_extra_file_is_compared_with_the_running_value() -> None:
    before = showing({"bgwriter_delay": 200}, {"server_fast_close": 0})
    found = of_extra_files(before.changes(values(**{DELAY: "50ms", CLOSE: "1"})))
    assert named(tuple(found)) == {DELAY: ("200ms", "50ms"), CLOSE: ("0", "1")}
    assert [one.live for one in found] == [True, True]
    # What was not compiled is no part of what an apply goes back to.
    assert before.values[DELAY] == SERVER_DEFAULT


def test_a_parameter_written_in_another_unit_is_no_change() -> None:
    before = showing({"bgwriter_delay": 1000}, {}, **{DELAY: "1s"})
    assert of_extra_files(before.changes(values(**{DELAY: "1s"}))) == []


def test_a_parameter_whose_line_is_gone_goes_back_to_the_server_s_default() -> None:
    before = showing({"bgwriter_delay": 50}, {}, **{DELAY: "50ms"})
    (change,) = of_extra_files(before.changes(values()))
    assert (change.was, change.new, change.live) == ("50ms", SERVER_DEFAULT, True)


def test_a_parameter_that_no_file_may_set_any_more_is_not_believed(tmp_path: Path) -> None:
    old = {key(POSTGRES_FILE, "work_mem"): "64MB", key(POSTGRES_FILE, "zzz"): "1"}
    path = tmp_path / "compiled.json"
    path.write_text(json.dumps({"settings": compiled_settings() | old}))
    known = read_record(path)
    assert known is not None
    assert extra.given(Running((), recorded=known).values) == ()


def test_a_line_that_is_gone_counts_until_the_server_runs_without_it() -> None:
    key_of_locks = key(POSTGRES_FILE, "max_locks_per_transaction")
    row = ServerSetting(
        "max_locks_per_transaction", "128", None, "postmaster", "configuration file"
    )
    given = process_settings.given_to_postgres({row.name: row})
    assert given == {key_of_locks}
    found = process_settings.of_postgres({row.name: row}, {})
    before = Running((Process("postgres", "postgres-1", found, given=given),))
    (change,) = of_extra_files(before.changes(values()))
    assert (change.setting.name, change.was, change.new) == (key_of_locks, "128", SERVER_DEFAULT)
    assert not change.live


def test_of_pgbouncer_a_parameter_counts_that_is_not_its_default() -> None:
    tracked = "config.track_extra_parameters"
    usual = {tracked: fact(""), "config.server_fast_close": fact(1)}
    assert process_settings.given_to_pgbouncer(usual) == frozenset()
    assert process_settings.given_to_pgbouncer({tracked: fact("search_path")}) == {
        key(PGBOUNCER_FILE, "track_extra_parameters")
    }


def test_with_settings_of_another_version_a_plan_compares_with_the_record(tmp_path: Path) -> None:
    settings = tmp_path / "ops.json"
    settings.write_text("{}")
    found = plan._look(settings, {"API_THREADS": 7})
    assert (found.processes, found.recorded) == ((), {"API_THREADS": 7})


def test_a_password_is_known_by_whether_it_is_the_one_that_was_issued() -> None:
    issued = {"risk_api": "a", "risk_worker": "b", "risk_owner": "c"}
    digests = {"risk_api": "a", "risk_worker": "x", "risk_owner": None}
    assert process_settings.of_roles(digests, issued, {}) == {
        "roles.risk_api.password": "issued",
        "roles.risk_worker.password": "another",
        "roles.risk_owner.password": "none",
    }


# What a role, or somebody by hand, sets in PostgreSQL, and the statement that plan names.
OUTSIDE: dict[str, tuple[Fact, str]] = {
    "roles.risk_api.password": ("another", "ALTER ROLE risk_api PASSWORD"),
    "roles.risk_api.login": ("off", "ALTER ROLE risk_api LOGIN"),
    "roles.risk_api.superuser": ("on", "ALTER ROLE risk_api SUPERUSER"),
    "roles.risk_api.valid_until": ("2026-01-01", "ALTER ROLE risk_api VALID UNTIL"),
    "roles.risk_api.connection_limit": (Decimal(1), "ALTER ROLE risk_api CONNECTION LIMIT"),
    "roles.risk_api.member_of": ("risk_owner", "GRANT ... TO risk_api, or REVOKE"),
    "roles.risk_api.statement_timeout": (
        Decimal(0),
        "ALTER ROLE risk_api SET statement_timeout",
    ),
    "roles.risk_api.default_transaction_read_only": (
        "on",
        "ALTER ROLE risk_api SET default_transaction_read_only",
    ),
    "roles.risk_api@risk.search_path": (
        "nowhere",
        "ALTER ROLE risk_api IN DATABASE risk SET search_path",
    ),
    "roles.all@risk.a.b": ("c", "ALTER ROLE ALL IN DATABASE risk SET a.b"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_a_role_was_given_outside_deviates_and_its_cause_is_named(name: str) -> None:
    value, statement = OUTSIDE[name]
    found = _running(values(), postgres={name: value})
    (one,) = found.deviations(values())
    assert (one.setting, one.found) == (name, process_settings.text(value))
    assert one.cause == statement
    assert one.as_dict()["cause"] == statement
    assert not one.needs_restart


def session(**settings: str) -> dict[str, ServerSetting]:
    """Return the settings of one server connection; times in ms."""
    units = {name: "ms" for name in settings if name.endswith("timeout")}
    return {
        name: ServerSetting(name, value, units.get(name), "user", "session")
        for name, value in settings.items()
    }


def test_what_one_server_connection_has_set_deviates_and_what_was_not_looked_at_does_not() -> None:
    (expected_role,) = (
        one
        for one in roles.login_roles(values(), roles.no_verifiers(values()))
        if one.name == "risk_api"
    )
    usual = {name: value.removesuffix("ms") for name, value in expected_role.settings.items()}
    running = _running(values())
    for process in running.processes:
        for name in [name for name in process.found if name.startswith("sessions.")]:
            del process.found[name]
    assert running.deviations(values()) == ()

    def deviations(*sessions: dict[str, ServerSetting]) -> list[tuple[str, str]]:
        facts = process_settings.of_sessions("risk", sessions)
        (pooler,) = running.of("pgbouncer")
        looked = replace(pooler, found=pooler.found | facts)
        return [(one.setting, one.found) for one in Running((looked,)).deviations(values())]

    assert deviations(session(**usual), session(**usual)) == []
    leaked = usual | {"statement_timeout": "0"}
    assert deviations(session(**usual), session(**leaked), session(**usual)) == [
        ("sessions.risk.statement_timeout", "3000 in 2, 0 in 1")
    ]
    assert deviations(session(**leaked)) == [("sessions.risk.statement_timeout", "0")]
    assert deviations(session(**usual, work_mem="1"), session(**usual)) == [
        ("sessions.risk.work_mem", "1 in 1, not set in 1")
    ]
    without = {name: value for name, value in usual.items() if name != "lock_timeout"}
    assert deviations(session(**without)) == [("sessions.risk.lock_timeout", "not there")]
