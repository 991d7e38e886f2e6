"""Every setting that the table calls live: changed by one apply, and read back."""

from __future__ import annotations

from decimal import Decimal

import pytest

from infra.config import catalogue, rules
from infra.config.build import check
from infra.config.names import NO_PARAMETERS
from infra.config.settings import BadValueError, Change, Setting, Value, Values
from tests.fix_ops import Commands, EnvDir
from tests.fix_probe import Probe
from tests.fix_sql import AdminConsole, Sql
from tests.fix_stack import ENV_FILE, Stack
from tests.ops import witness

LIVE = tuple(setting for setting in catalogue.all_settings() if setting.change is Change.LIVE)
# Less first: what is given up leaves room for what cannot be less.
DELTAS = (-1, 1, -2, 2, 100)
# Of texts each setting takes what has its form: an empty list, an address, a time of day, a name,
# a path, a digest.
TEXTS = (NO_PARAMETERS, "http://a.invalid/", "03:45", "a.invalid", "/elsewhere", "0" * 64)


def all_changed() -> dict[str, Value]:
    """Return another value for every live setting, which together hold the budget."""
    values = check(ENV_FILE).values.as_dict()
    changed: dict[str, Value] = {}
    for setting in LIVE:
        for other in _others(setting, values[setting.name]):
            if not rules.faults(Values(values | {setting.name: other}), file=""):
                values[setting.name] = changed[setting.name] = other
                break
    assert {setting.name for setting in LIVE} == changed.keys()
    return changed


def _others(setting: Setting, value: Value) -> list[Value]:
    if isinstance(value, str):
        texts = setting.choices or TEXTS
    else:
        texts = tuple(str(value + delta) for delta in DELTAS)
    found = []
    for text in texts:
        try:
            found.append(setting.parse(text))
        except BadValueError:
            continue
    return [other for other in found if other != value]


@pytest.fixture
def changed(
    ops: Commands, env: EnvDir, settings: dict[str, str], applied_again: None
) -> dict[str, Value]:
    """Apply another value of every live setting; return them."""
    values = all_changed()
    # Each is given: one that followed from another might need a restart.
    given = {one.name: settings[one.name] for one in catalogue.all_settings() if not one.left_out}
    done = ops.apply(env.set(**given | values))
    assert done.exit_code == 0, done.text
    return values


def test_every_live_setting_takes_another_value_without_a_restart(
    stack: Stack,
    ops: Commands,
    env: EnvDir,
    changed: dict[str, Value],
    sql: Sql,
    console: AdminConsole,
    probe: Probe,
) -> None:
    started = {
        str(container.name): container.attrs["State"]["StartedAt"]
        for tier in ("postgres", "pgbouncer", "api", "worker")
        for container in stack.containers(tier)
    }
    # Read from the processes themselves.
    plan = ops.run("plan", "--json", env_dir=env.path).document
    assert plan["differences"] == []
    assert plan["drift"] == []
    _check_derived(sql, changed, len(stack.containers("pgbouncer")))
    _check_pgbouncer(stack, console, changed)
    _check_query_timeout(probe, changed)
    for tier in ("postgres", "pgbouncer", "api", "worker"):
        for container in stack.containers(tier):
            container.reload()
            assert container.attrs["State"]["StartedAt"] == started[str(container.name)]


def _check_derived(sql: Sql, changed: dict[str, Value], replicas: int) -> None:
    """PostgreSQL settings that no setting names, and the monitor's limit."""
    settings = {
        row["name"]: row["setting"]
        for row in sql.rows("SELECT name, setting FROM pg_settings WHERE source LIKE '%file'")
    }
    assert settings["work_mem"] == str(changed["POSTGRES_WORK_MEM_KB"])
    kilobytes = Decimal(changed["POSTGRES_MAINTENANCE_WORK_MEM_MB"]) * 1024
    assert settings["maintenance_work_mem"] == str(kilobytes)
    assert settings["random_page_cost"] == ("4" if changed["POSTGRES_STORAGE"] == "hdd" else "1.1")
    assert settings["log_min_duration_statement"] == str(changed["POSTGRES_SLOW_STATEMENT_MS"])
    assert settings["auto_explain.log_min_duration"] == str(changed["POSTGRES_SLOW_STATEMENT_MS"])
    monitor = Decimal(changed["POSTGRES_MONITOR_CONNECTIONS"]) + replicas
    assert witness.role_limits(sql)["sluice_monitor"] == monitor


def _check_pgbouncer(stack: Stack, console: AdminConsole, changed: dict[str, Value]) -> None:
    names = {
        "max_client_conn": "PGBOUNCER_MAX_CLIENT_CONNECTIONS",
        "query_wait_timeout": "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS",
        "server_lifetime": "PGBOUNCER_SERVER_LIFETIME_SECONDS",
        "server_login_retry": "PGBOUNCER_SERVER_LOGIN_RETRY_SECONDS",
        "client_login_timeout": "PGBOUNCER_CLIENT_LOGIN_TIMEOUT_SECONDS",
        "dns_max_ttl": "PGBOUNCER_DNS_MAX_TTL_SECONDS",
        "max_prepared_statements": "PGBOUNCER_MAX_PREPARED_STATEMENTS",
        "server_reset_query_always": "PGBOUNCER_SERVER_RESET_QUERY_ALWAYS",
        "query_timeout": "API_QUERY_TIMEOUT_SECONDS",
    }
    for replica, config in witness.configs(stack, console).items():
        for name, setting in names.items():
            assert config[name] == str(changed[setting]), f"{replica}: {name}"


def _check_query_timeout(probe: Probe, changed: dict[str, Value]) -> None:
    """PgBouncer shows no user's own query_timeout: have it end a query."""
    limit = float(changed["API_QUERY_TIMEOUT_SECONDS"])
    answer = probe("query_timeout.py", str(limit + 10), service="api")
    assert "query timeout" in answer["message"]
    assert limit - 0.5 <= answer["seconds"] <= limit + 3
