"""One form for what is in force and what should be; where settings are read from; the read-back."""

from decimal import Decimal

import pytest

from infra.config import catalogue
from infra.config.settings import Change, Value, Values
from infra.ops import facts
from infra.ops.facts import Facts, expected, fact
from infra.ops.in_force import InForce, Process
from infra.ops.postgres_admin import RoleInForce, ServerSetting
from infra.ops.readback import deviations
from infra.ops.setting_sources import SOURCES, read


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


def test_settings_of_the_server_are_compared_in_their_own_unit() -> None:
    rows = {
        "shared_buffers": ServerSetting(
            "shared_buffers", "32768", "8kB", "postmaster", False, "default"
        ),
        "checkpoint_timeout": ServerSetting(
            "checkpoint_timeout", "300", "s", "sighup", False, "configuration file"
        ),
        "lock_timeout": ServerSetting("lock_timeout", "2000", "ms", "user", False, "user"),
    }
    role = RoleInForce("risk_api", 24, {"lock_timeout": "1000ms"})
    assert facts.of_postgres(rows, {"risk_api": role}) == {
        "settings.shared_buffers": Decimal(262_144),
        "settings.checkpoint_timeout": Decimal(300_000),
        "roles.risk_api.connection_limit": Decimal(24),
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
        return next(choice for choice in setting.choices if choice != setting.default)
    return setting.default + 1


def test_what_changes_live_and_reaches_a_process_can_be_read_from_it() -> None:
    """These are derived, seen by operator commands only, or hidden by PgBouncer."""
    not_read = {
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
        "WORKER_QUERY_TIMEOUT_SECONDS",
    }
    live = {setting.name for setting in catalogue.all_settings() if setting.change is Change.LIVE}
    assert live - SOURCES.keys() == not_read


def _in_force(of: Values, **changed: Facts) -> InForce:
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
    return InForce(tuple(processes), dict.fromkeys(found, 1))


def test_what_is_in_force_as_compiled_does_not_deviate() -> None:
    assert deviations(values(), _in_force(values())) == ()


def test_a_process_that_differs_is_named_with_both_values() -> None:
    found = _in_force(values(), pgbouncer={"config.query_wait_timeout": Decimal(9)})
    (one,) = deviations(values(), found)
    assert str(one) == "pgbouncer-1: config.query_wait_timeout is 9, compiled is 4"
    assert not one.needs_restart


def test_what_only_a_restart_changes_is_told_apart() -> None:
    found = _in_force(values(), api={"pool.timeout_seconds": Decimal(9)})
    (one,) = deviations(values(), found)
    assert one.needs_restart
    assert str(one).endswith("; it takes a restart")


def test_a_setting_that_is_gone_deviates() -> None:
    found = _in_force(values())
    del found.of("worker")[0].found["worker.lease_seconds"]
    (one,) = deviations(values(), found)
    assert one.found == "not there"


def test_settings_are_read_from_every_process() -> None:
    one = _in_force(values()).of("pgbouncer")[0]
    other = Process(
        "pgbouncer", "pgbouncer-2", one.found | {"databases.risk.pool_size": Decimal(9)}
    )
    settings = InForce((one, other), {"pgbouncer": 2}).settings()
    assert settings["PGBOUNCER_INTERACTIVE_POOL_SIZE"] == (2, 9)
    assert settings["PGBOUNCER_BATCH_POOL_SIZE"] == (2,)


def test_who_is_not_there_or_silent_is_named() -> None:
    silent = Process("pgbouncer", "pgbouncer-1", {}, error="timed out")
    found = InForce((silent,), {"pgbouncer": 2, "postgres": 1})
    assert found.faults() == [
        "pgbouncer-1: timed out",
        "postgres: 0 of 1 processes have an address",
        "pgbouncer: 1 of 2 processes have an address; there: pgbouncer-1",
    ]
