"""`plan` on the running stack: the difference to the running configuration."""

from __future__ import annotations

import time

import pytest

from tests.fix_ops import Commands, EnvDir
from tests.fix_sql import AdminConsole
from tests.fix_stack import ENV_DIR, REPOSITORY, Stack
from tests.ops import witness


def test_the_stacks_own_file_changes_nothing(ops: Commands, stack: Stack) -> None:
    done = ops.run("plan", "--json")
    assert done.exit_code == 0, done.text
    plan = done.document
    assert plan["differences"] == []
    assert plan["drift"] == []
    assert plan["unreachable"] == []
    tiers = [one["tier"] for one in plan["processes"]]
    counted = {tier: tiers.count(tier) for tier in set(tiers)}
    assert counted == {
        tier: len(stack.containers(tier)) for tier in ("postgres", "pgbouncer", "api", "worker")
    }


def test_each_change_has_old_new_and_cost(
    ops: Commands, env: EnvDir, settings: dict[str, str]
) -> None:
    env.set(POSTGRES_MAX_CONNECTIONS=61, PGBOUNCER_BATCH_POOL_SIZE=7, API_MEMORY_MB=300)
    plan = ops.run("plan", "--json", env_dir=env.path).document
    assert plan["differences"] == [
        {
            "setting": "POSTGRES_MAX_CONNECTIONS",
            "was": int(settings["POSTGRES_MAX_CONNECTIONS"]),
            "now": 61,
            "change": "restart of postgres",
        },
        {
            "setting": "PGBOUNCER_BATCH_POOL_SIZE",
            "was": int(settings["PGBOUNCER_BATCH_POOL_SIZE"]),
            "now": 7,
            "change": "live",
        },
        {
            "setting": "API_MEMORY_MB",
            "was": int(settings["API_MEMORY_MB"]),
            "now": 300,
            "change": "recreates the containers of its tier",
        },
    ]
    assert (plan["restart"], plan["recreate"]) == (["postgres"], ["api"])
    effect = {row["name"]: (row["before"], row["after"]) for row in plan["effect"]}
    assert effect["max_connections"] == (60, 61)
    assert effect["pooled sessions"] == (12, 22)


def test_a_person_reads_the_difference(ops: Commands, env: EnvDir) -> None:
    env.set(PGBOUNCER_BATCH_POOL_SIZE=7, API_LOCK_TIMEOUT_MS=900)
    text = ops.run("plan", env_dir=env.path).text
    for part in (
        "Compared with the running configuration",
        "PGBOUNCER_BATCH_POOL_SIZE",
        "Effect on the budget",
        "pooled sessions",
        "All of it is live: make apply",
        "warning: infra/env/stack.env: PGBOUNCER_BATCH_POOL_SIZE=7 x 2",
        "the budget holds",
    ):
        assert part in text
    assert "POSTGRES_STORAGE" not in text, "what does not change is left out"


def test_full_adds_every_table(ops: Commands) -> None:
    text = ops.run("plan", "--full").text
    assert "POSTGRES_STORAGE" in text
    assert "Derived PostgreSQL settings" in text


def test_quiet_prints_faults_and_warnings_only(ops: Commands, env: EnvDir) -> None:
    good = ops.run("plan", "--quiet")
    assert (good.exit_code, good.stdout) == (0, "")
    assert all("warning: " in line for line in good.stderr.splitlines() if "stack.env" in line)
    bad = ops.run("plan", "--quiet", env_dir=env.set(API_THREADS="many").path)
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "API_THREADS=many is not a whole number" in bad.stderr


def test_a_process_that_runs_other_values_is_found(
    ops: Commands, console: AdminConsole, stack: Stack
) -> None:
    """Somebody changed one replica by hand: plan says which, and what it has."""
    name = str(stack.containers("pgbouncer")[1].name)
    console.command("SET query_wait_timeout = 5", replica=1)
    try:
        done = ops.run("plan", "--json")
    finally:
        console.command("RELOAD", replica=1)
    plan = done.document
    assert plan["differences"] == [
        {
            "setting": "PGBOUNCER_QUERY_WAIT_TIMEOUT_SECONDS",
            "was": [4, 5],
            "now": 4,
            "change": "live",
        }
    ]
    (drift,) = plan["drift"]
    assert drift["process"].startswith(name)
    assert (drift["setting"], drift["found"]) == ("config.query_wait_timeout", "5")


def test_apply_puts_back_what_was_changed_by_hand(
    ops: Commands, console: AdminConsole, stack: Stack
) -> None:
    console.command("SET query_wait_timeout = 5", replica=1)
    done = ops.run("apply")
    assert done.exit_code == 0, done.text
    assert {one["query_wait_timeout"] for one in witness.configs(stack, console).values()} == {"4"}


def test_without_network_and_without_volumes_the_budget_is_printed(stack: Stack) -> None:
    """As on a machine where nothing was ever started."""
    image = stack.containers("config", all_states=True)[0].attrs["Config"]["Image"]
    started = time.monotonic()
    output = stack.client.containers.run(
        image,
        ["plan"],
        volumes={str(ENV_DIR): {"bind": "/etc/sluice/env", "mode": "ro"}},
        network_mode="none",
        read_only=True,
        remove=True,
        tmpfs={"/tmp": ""},  # noqa: S108  # inside the container
        environment={"COLUMNS": "160"},
    ).decode()
    assert "Nothing was compiled yet" in output
    for part in ("POSTGRES_STORAGE", "PostgreSQL sessions", "work_mem", "the budget holds"):
        assert part in output
    assert time.monotonic() - started < 30


def test_on_a_stopped_stack_the_last_compile_is_compared(stack: Stack) -> None:
    """The record is there and no process has an address."""
    image = stack.containers("config", all_states=True)[0].attrs["Config"]["Image"]
    output = stack.client.containers.run(
        image,
        ["plan"],
        user="0:0",
        volumes={
            str(ENV_DIR): {"bind": "/etc/sluice/env", "mode": "ro"},
            f"{stack.project}_ops-config": {"bind": "/etc/sluice/ops", "mode": "ro"},
        },
        network_mode="none",
        read_only=True,
        remove=True,
        tmpfs={"/tmp": ""},  # noqa: S108  # inside the container
    ).decode()
    assert "Nothing runs: this is what the file comes to, compared with the last compile" in output
    assert "No setting has changed since the last compile" in output


@pytest.mark.parametrize("name", ["laptop", "small", "medium", "large"])
def test_a_preset_is_planned_against_the_running_configuration(ops: Commands, name: str) -> None:
    done = ops.run("preset", name, "--json")
    assert done.exit_code == 0, done.text
    plan = done.document
    assert plan["settings"]["API_PORT"] == int(ops.setting("API_PORT"))
    changed = {one["setting"] for one in plan["differences"]}
    assert ("POSTGRES_MEMORY_MB" in changed) == (name != "laptop")


def test_a_preset_becomes_the_env_file(ops: Commands, env: EnvDir) -> None:
    # The present file may be one that Compose cannot read.
    env.set(POSTGRES_MEMORY_MB="2GB")
    done = ops.script("preset", "laptop", env=env)
    assert done.exit_code == 0, done.text
    adopted = env.file.read_text()
    assert "POSTGRES_MEMORY_MB=1024" in adopted
    assert f"API_PORT={ops.setting('API_PORT')}" in adopted
    assert "is now the preset laptop" in done.text
    assert not env.file.with_name("stack.env.candidate").exists()


def test_a_preset_that_the_host_cannot_carry_changes_nothing(ops: Commands, env: EnvDir) -> None:
    preset = env.path / "presets" / "small.env"
    text = preset.read_text().replace("POSTGRES_CPUS=4.0", "POSTGRES_CPUS=200")
    preset.write_text(text.replace("POSTGRES_MEMORY_MB=6144", "POSTGRES_MEMORY_MB=1048576"))
    before = env.file.read_bytes()
    done = ops.script("preset", "small", env=env)
    assert done.exit_code == 2, done.text
    assert "infra/env/presets/small.env: POSTGRES_CPUS=200 exceeds the" in done.stderr
    assert "infra/env/presets/small.env: POSTGRES_MEMORY_MB=1048576 + " in done.stderr
    assert env.file.read_bytes() == before
    assert not env.file.with_name("stack.env.candidate").exists()


def test_an_unknown_preset_changes_nothing(ops: Commands, env: EnvDir) -> None:
    before = env.file.read_bytes()
    done = ops.script("preset", "huge", env=env)
    assert done.exit_code == 2, done.text
    assert "laptop, large, medium, small" in done.text
    assert env.file.read_bytes() == before


def test_the_presets_of_the_repository_are_those_of_the_env_dir() -> None:
    names = sorted(path.name for path in (REPOSITORY / "infra/env/presets").iterdir())
    assert names == sorted(path.name for path in (ENV_DIR / "presets").iterdir())
