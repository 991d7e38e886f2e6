"""What `docker compose` does to a running stack: starts again, stops, meets a broken setting."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Done, run
from tests.faults.load import Load
from tests.fix_api import Api, assessment_body
from tests.fix_ops import EnvDir
from tests.fix_stack import ENV_FILE, REPOSITORY, TIERS, Stack


def started(stack: Stack) -> dict[str, str]:
    """Return when every tier's container started, by container id."""
    return {
        str(one.id): one.attrs["State"]["StartedAt"]
        for tier in TIERS
        for one in stack.containers(tier)
    }


def make(*arguments: str, env: EnvDir | None = None) -> Done:
    """Run a make target as the README has it."""
    moved = {"SLUICE_ENV_DIR": str(env.path)} if env else {}
    return run("make", *arguments, env=moved, seconds=300)


@pytest.fixture
def broken_env_file(stack: Stack) -> Iterator[Path]:
    """Return the env file to be broken; afterwards it is as before, and the stack is up."""
    text, mode = ENV_FILE.read_text(encoding="utf-8"), ENV_FILE.stat().st_mode
    yield ENV_FILE
    # In place: a replaced file would be another file to a container that has it mounted.
    ENV_FILE.chmod(mode)
    ENV_FILE.write_text(text, encoding="utf-8")
    assert stack.compose("up", "--detach", "--wait").returncode == 0


def test_one_service_builds_an_image_and_the_others_name_it(stack: Stack) -> None:
    shown = stack.compose("--profile", "ops", "config", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    services = json.loads(shown.stdout)["services"].values()
    built = [one["image"] for one in services if "build" in one]
    assert sorted(built) == sorted({one["image"] for one in services})
    assert {one.get("pull_policy") for one in services if "build" not in one} == {"never"}


def test_make_up_again_replaces_no_container_and_fails_no_request(stack: Stack, api: Api) -> None:
    before = started(stack)
    with Load(str(api.http.base_url).rstrip("/"), threads=2) as load:
        result = make("up")
        assert result.returncode == 0, result.stdout + result.stderr
    assert started(stack) == before
    assert len(load.of()) > 50
    assert [one for one in load.samples if one.status not in (200, 202)] == []


def test_down_and_up_keep_the_data(stack: Stack, api: Api) -> None:
    final = api.run(assessment_body())
    assert stack.compose("down").returncode == 0
    assert stack.containers("postgres") == []
    found = make("status", "JSON=yes")
    row = "no container of NAME is there"
    bottleneck = found.document["bottleneck"]
    assert bottleneck["line"] == row.replace("NAME", ", ".join(TIERS)) + "."
    assert bottleneck["command"] == "make up"
    assert (found.exit_code != 0, found.stderr.count("Network")) == (True, 0)
    result = stack.compose("up", "--detach", "--wait")
    assert result.returncode == 0, result.stderr
    assert api.status(final["assessment_id"]) == final


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("API_POOL_MAX_SIZE=", "API_POOL_MAX_SIZE=99", "API_POOL_MAX_SIZE"),
        ("WORKER_THREADS=", "WORKER_TREADS=", "WORKER_THREADS"),
        ("API_REQUEST_DEADLINE_SECONDS=", "API_REQUEST_DEADLINE_SECONDS=x", "API_REQUEST_DEADLINE"),
    ],
    ids=["over budget", "misspelt", "not a number"],
)
def test_a_broken_setting_stops_up_with_the_reason_and_leaves_running_tiers_alone(
    stack: Stack, api: Api, broken_env_file: Path, old: str, new: str, reason: str
) -> None:
    before = started(stack)
    text = broken_env_file.read_text(encoding="utf-8")
    assert old in text
    broken_env_file.write_text(text.replace(old, new, 1), encoding="utf-8")
    result = stack.compose("up", "--detach")
    assert result.returncode != 0
    said = stack.compose("logs", "--no-log-prefix", "config").stdout
    assert reason in said
    assert "stack.env" in said
    assert started(stack) == before
    assert api.http.get("/health/ready").status_code == 200


def test_an_unreadable_env_file_stops_up_and_says_so(stack: Stack, broken_env_file: Path) -> None:
    before = started(stack)
    broken_env_file.chmod(0)
    result = stack.compose("up", "--detach")
    assert result.returncode != 0
    assert "stack.env" in stack.compose("logs", "--no-log-prefix", "config").stdout
    assert started(stack) == before


@pytest.mark.parametrize(
    "arguments", [("up",), ("plan",), ("apply", "RESTART=yes"), ("restart-app",), ("load",)]
)
def test_every_fault_of_what_compose_reads_is_named_before_anything_is_touched(
    stack: Stack, env: EnvDir, arguments: tuple[str, ...]
) -> None:
    env.set(POSTGRES_MEMORY_MB="2GB", PGBOUNCER_REPLICAS="two", WORKER_CPUS=200, API_PORT=99999)
    env.file.write_text(env.file.read_text().replace("\nPOSTGRES_CPUS=", "\n# "))
    before = started(stack)
    result = make(*arguments, env=env)
    assert result.returncode != 0
    for fault in (
        "POSTGRES_MEMORY_MB=2GB carries the unit 'GB'",
        "PGBOUNCER_REPLICAS=two is not a whole number",
        "API_PORT=99999 is outside",
        "POSTGRES_CPUS is missing",
        "WORKER_CPUS=200 exceeds the ",
    ):
        assert fault in result.stderr
    assert started(stack) == before


def test_a_broken_env_file_stops_nobody_from_looking(stack: Stack, env: EnvDir) -> None:
    env.file.write_text("POSTGRES_CPUS=many\n")
    for target in ("ps", "status", "build"):
        result = make(target, env=env)
        assert result.returncode == 0, result.stderr


def test_another_clone_leaves_the_running_project_alone(stack: Stack, tmp_path: Path) -> None:
    for name in ("Makefile", "compose.yaml", "infra/host"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy)(
            REPOSITORY / name, tmp_path / name
        )
    before = started(stack)
    for arguments in (["up"], ["down"], ["destroy", "CONFIRM=yes"]):
        result = run("make", *arguments, cwd=tmp_path)
        assert result.returncode != 0
        assert f"was started from {REPOSITORY}; use that clone" in result.stderr
    assert started(stack) == before


@pytest.mark.parametrize("service", ["api", "worker"])
def test_an_unhealthy_pooler_cannot_leave_a_recreated_tier_stopped(
    stack: Stack, service: str
) -> None:
    shown = stack.compose("config", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    waits_for = json.loads(shown.stdout)["services"][service]["depends_on"]
    assert waits_for["pgbouncer"]["condition"] == "service_started"


def test_make_assess_finishes_with_a_table_of_all_eight_sites(stack: Stack) -> None:
    result = make("assess")
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("Seoul", "Busan", "Incheon", "Daejeon", "Gwangju", "Ulsan", "Jeju", "Gangneung"):
        assert name.lower() in result.stdout.lower()
    assert "2560" in (result.stdout + result.stderr).replace(",", "")


def test_make_plan_prints_the_budget(settings: dict[str, str]) -> None:
    result = make("plan", "FULL=yes")
    assert result.returncode == 0, result.stderr
    assert "max_connections" in result.stdout
    assert settings["POSTGRES_MAX_CONNECTIONS"] in result.stdout


def test_make_help_names_every_target_a_person_needs() -> None:
    said = make("help").stdout
    assert [line for line in said.splitlines() if len(line) > 80] == []
    for target in ("assess", "up", "down", "logs", "psql", "lint", "test", "plan", "apply"):
        assert f"make {target} " in said


def test_the_default_env_file_is_the_one_compose_reads() -> None:
    assert (REPOSITORY / ".env").resolve() == ENV_FILE


def status_of(stack: Stack, service: str) -> dict[str, Any]:
    """Return the state of a one-shot service's container."""
    (container,) = stack.containers(service, all_states=True)
    return dict(container.attrs["State"])


@pytest.mark.parametrize("service", ["config", "migrate"])
def test_the_one_shot_services_ended_well(stack: Stack, service: str) -> None:
    state = status_of(stack, service)
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
