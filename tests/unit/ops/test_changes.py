"""The difference between what is in force and what the env file asks for."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from infra.config import catalogue, documents, extra
from infra.config.extra import PGBOUNCER_FILE, POSTGRES_FILE, key
from infra.config.settings import SERVER_DEFAULT, Value, Values
from infra.ops import effect
from infra.ops.changes import SettingChange, baseline, changes, read_record
from infra.ops.facts import fact
from infra.ops.in_force import InForce, Process
from infra.ops.ordering import live_part, tiers_to_restart


def values(**changed: Value) -> Values:
    return Values(catalogue.defaults().as_dict() | changed)


def record(**changed: Value) -> dict[str, Any]:
    """Return the settings as compiled.json holds them."""
    settings = documents.compiled(values(**changed))["settings"]
    return dict(json.loads(json.dumps(settings)))


def named(found: tuple[SettingChange, ...]) -> dict[str, tuple[str, Value]]:
    return {one.setting.name: (one.was, one.new) for one in found}


def test_an_unchanged_file_changes_nothing() -> None:
    assert changes(baseline(record(), {}), values()) == ()


def test_a_decimal_survives_the_record() -> None:
    before = baseline(record(API_CPUS=Decimal("1.5")), {})
    assert before.values["API_CPUS"] == Decimal("1.5")
    assert named(changes(before, values())) == {"API_CPUS": ("1.5", Decimal("1.0"))}


def test_what_processes_have_counts_more_than_the_record() -> None:
    before = baseline(record(API_POOL_MAX_SIZE=20), {"API_POOL_MAX_SIZE": (16,)})
    assert changes(before, values()) == ()


def test_processes_that_differ_are_a_change_to_all_of_their_values() -> None:
    before = baseline(record(), {"PGBOUNCER_BATCH_POOL_SIZE": (8, 6)})
    (change,) = changes(before, values())
    assert change.was == "8 and 6"
    assert change.as_dict()["was"] == [8, 6]
    assert before.values["PGBOUNCER_BATCH_POOL_SIZE"] == 6


def test_a_setting_that_the_record_does_not_know_is_new() -> None:
    old = record()
    del old["API_THREADS"]
    (change,) = changes(baseline(old, {}), values())
    assert (change.setting.name, change.was) == ("API_THREADS", "none")


def test_a_recorded_value_that_is_not_one_any_more_is_not_believed() -> None:
    old = record() | {"API_THREADS": "many"}
    assert baseline(old, {}).values["API_THREADS"] == 40


def test_the_order_is_that_of_the_env_file() -> None:
    found = changes(baseline(record(), {}), values(WORKER_THREADS=3, POSTGRES_MAX_CONNECTIONS=61))
    assert [one.setting.name for one in found] == ["POSTGRES_MAX_CONNECTIONS", "WORKER_THREADS"]
    assert [one.live for one in found] == [False, False]


def test_without_a_record_nothing_is_known(tmp_path: Path) -> None:
    assert read_record(tmp_path / "compiled.json") is None


def test_the_effect_names_connections_memory_and_times() -> None:
    after = values(PGBOUNCER_BATCH_POOL_SIZE=7, API_LOCK_TIMEOUT_MS=900, POSTGRES_WORK_MEM_KB=2048)
    changed = {
        row.name: (row.before, row.after) for row in effect.rows(values(), after) if row.changed
    }
    assert changed["pool risk_batch, 2 replicas"] == (4, 14)
    assert changed["left of max_connections"] == (28, 18)
    assert changed["API_LOCK_TIMEOUT_MS"] == (1000, 900)
    assert "work_mem" in changed


def test_the_effect_of_a_first_compile_has_no_before() -> None:
    assert {row.before for row in effect.rows(None, values())} == {None}


def test_a_pool_of_more_replicas_keeps_its_row() -> None:
    rows = effect.rows(values(), values(PGBOUNCER_REPLICAS=1))
    (pooled,) = [row for row in rows if row.name == "pooled sessions"]
    assert (pooled.before, pooled.after) == (14, 7)


def _found(settings: dict[str, Any], config: dict[str, Any]) -> InForce:
    facts_of_postgres = {f"settings.{name}": fact(value) for name, value in settings.items()}
    facts_of_pgbouncer = {f"config.{name}": fact(value) for name, value in config.items()}
    processes = (
        Process("postgres", "postgres-1", facts_of_postgres),
        *(Process("pgbouncer", f"pgbouncer-{n}", facts_of_pgbouncer) for n in (1, 2)),
    )
    return InForce(processes, {})


DELAY, NAME = key(POSTGRES_FILE, "bgwriter_delay"), key(POSTGRES_FILE, "cluster_name")
CLOSE = key(PGBOUNCER_FILE, "server_fast_close")
TRACKED = key(PGBOUNCER_FILE, "track_extra_parameters")


def test_a_parameter_of_an_extra_file_is_compared_with_the_running_value() -> None:
    found = _found({"bgwriter_delay": 200}, {"server_fast_close": 0})
    observed = found.settings({DELAY: {"50ms"}, CLOSE: {"1"}})
    before, wanted = baseline(record(), observed), values(**{DELAY: "50ms", CLOSE: "1"})
    assert named(changes(before, wanted)) == {DELAY: ("200ms", "50ms"), CLOSE: ("0", "1")}
    assert [one.live for one in changes(before, wanted)] == [True, True]
    # What was not compiled is no part of what an apply goes back to.
    assert before.values[DELAY] == SERVER_DEFAULT


def test_a_parameter_written_in_another_unit_is_no_change() -> None:
    observed = _found({"bgwriter_delay": 1000}, {}).settings({DELAY: {"1s"}})
    assert changes(baseline(record(**{DELAY: "1s"}), observed), values(**{DELAY: "1s"})) == ()


def test_a_parameter_whose_line_is_gone_goes_back_to_the_server_s_default() -> None:
    observed = _found({"bgwriter_delay": 50}, {}).settings({DELAY: {"50ms"}})
    (change,) = changes(baseline(record(**{DELAY: "50ms"}), observed), values())
    assert (change.was, change.new, change.live) == ("50ms", SERVER_DEFAULT, True)


def test_a_parameter_that_needs_a_restart_is_left_until_then() -> None:
    wanted = values(**{DELAY: "50ms", NAME: "two", TRACKED: "search_path"})
    part = live_part(values(), wanted)
    assert part.waiting == (NAME, TRACKED)
    assert extra.given(part.values) == (DELAY,)
    assert tiers_to_restart(part.waiting) == (("postgres", "pgbouncer"), ())
    gone = live_part(wanted, values())
    assert gone.waiting == (NAME, TRACKED)
    assert extra.given(gone.values) == (NAME, TRACKED)


def test_a_parameter_that_no_file_may_set_any_more_is_not_believed() -> None:
    old = record() | {key(POSTGRES_FILE, "work_mem"): "64MB", key(POSTGRES_FILE, "zzz"): "1"}
    assert extra.given(baseline(old, {}).values) == ()
