"""What each container is: its user, rights, limits, first process and files."""

from __future__ import annotations

import json

import pytest

from tests.fix_stack import TIERS, Stack, run_in

ONE_SHOTS = ("config", "migrate")
SERVICES = (*TIERS, "backup")
UIDS = {"postgres": 10070, "backup": 10070, "pgbouncer": 10071, "api": 10072, "worker": 10073}
FIRST_PROCESS = {
    # It takes what pgBackRest leaves in the background; its one child is the server.
    "postgres": "tini",
    "backup": "python",
    "pgbouncer": "pgbouncer",
    "api": "python",
    "worker": "python",
}


@pytest.mark.parametrize("tier", SERVICES)
def test_the_first_process_is_the_server_as_its_own_user_without_rights(
    stack: Stack, tier: str
) -> None:
    for container in stack.containers(tier):
        lines = stack.host(container).file("/proc/1/status").content_string.splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert status["Name"].startswith(FIRST_PROCESS[tier])
        assert status["Uid"].split() == [str(UIDS[tier])] * 4
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("tier", [*SERVICES, *ONE_SHOTS])
def test_every_container_is_read_only_bounded_and_without_capabilities(
    stack: Stack, tier: str
) -> None:
    containers = stack.containers(tier, all_states=True)
    assert containers
    for container in containers:
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert (host["CapAdd"] or []) == (["CHOWN"] if tier == "config" else [])
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert 0 < host["PidsLimit"] <= 1024
        assert not host["Privileged"]
        assert host["LogConfig"]["Config"]["max-size"]


@pytest.mark.parametrize("tier", [*SERVICES, *ONE_SHOTS])
def test_no_container_sees_the_docker_socket(stack: Stack, tier: str) -> None:
    for container in stack.containers(tier, all_states=True):
        assert not any("docker.sock" in str(mount) for mount in container.attrs["Mounts"])


def test_the_compiler_has_no_network(stack: Stack) -> None:
    (config,) = stack.containers("config", all_states=True)
    assert config.attrs["HostConfig"]["NetworkMode"] == "none"


def test_backups_have_no_network_but_one_without_a_way_out(stack: Stack) -> None:
    networks = stack.container("backup").attrs["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{stack.project}_backups"]
    assert stack.client.networks.get(f"{stack.project}_backups").attrs["Internal"]


def test_backups_cannot_write_the_data(stack: Stack) -> None:
    code, _ = run_in(stack.container("backup"), ["touch", "/var/lib/postgresql/data/17/x"])
    assert code != 0


@pytest.mark.parametrize("tier", SERVICES)
def test_every_tier_has_a_health_check_and_a_bounded_stop(stack: Stack, tier: str) -> None:
    for container in stack.containers(tier):
        assert stack.health(container) == "healthy"
        assert container.attrs["Config"]["Healthcheck"]["Test"][0] == "CMD"
        assert 0 < container.attrs["Config"]["StopTimeout"] <= 60


@pytest.mark.parametrize(("tier", "signal"), [("postgres", "SIGINT"), ("pgbouncer", "SIGINT")])
def test_the_server_is_stopped_by_the_right_signal(stack: Stack, tier: str, signal: str) -> None:
    assert stack.container(tier).attrs["Config"]["StopSignal"] == signal


@pytest.mark.parametrize("tier", SERVICES)
def test_configuration_belongs_to_the_tier_and_others_cannot_read_secrets(
    stack: Stack, tier: str
) -> None:
    listing = stack.host(stack.container(tier)).check_output(
        "find /etc/sluice -type f -printf '%m %U %f\\n'"
    )
    files = [line.split() for line in listing.splitlines()]
    assert files
    for mode, uid, name in files:
        assert int(mode, 8) & 0o333 == 0, f"{name} is writable or executable: {mode}"
        if not name.endswith(".crt"):
            assert int(mode, 8) & 0o007 == 0, f"{name} is readable by others: {mode}"
        if tier in ("postgres", "backup", "pgbouncer"):
            assert int(uid) == UIDS[tier], name


@pytest.mark.parametrize(
    "name", ["worker.password", "worker-control.key", "worker-control.token", "migrate.password"]
)
def test_the_api_cannot_read_the_secrets_of_another_service(stack: Stack, name: str) -> None:
    code, _ = run_in(stack.container("api"), ["cat", f"/etc/sluice/{name}"])
    assert code != 0


def test_the_operators_container_may_give_files_away_and_nothing_more(stack: Stack) -> None:
    shown = stack.compose("--profile", "ops", "config", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    ops = json.loads(shown.stdout)["services"]["ops"]
    assert (ops["user"], ops["cap_drop"], ops["cap_add"]) == ("0:0", ["ALL"], ["CHOWN"])
    assert ops["read_only"]
    assert ops["security_opt"] == ["no-new-privileges:true"]
    assert set(ops["networks"]) == {"pool", "db", "control"}
    assert "ports" not in ops
    assert not any("docker.sock" in one["source"] for one in ops["volumes"])


@pytest.mark.parametrize("tier", SERVICES)
def test_no_secret_is_in_the_environment_or_the_command(stack: Stack, tier: str) -> None:
    passwords = {
        run_in(stack.container(service), ["cat", f"/etc/sluice/{service}.password"])[1]
        for service in ("api", "worker")
    }
    assert all(len(password) >= 20 for password in passwords)
    for container in stack.containers(tier):
        shown = str(container.attrs["Config"])
        assert not any(password.strip() in shown for password in passwords)


@pytest.mark.parametrize(
    ("service", "package", "floor"),
    [("pgbouncer", "pgbouncer", "1.26.1"), ("postgres", "postgresql-17", "17")],
)
def test_the_package_is_at_least_at_its_floor(
    stack: Stack, service: str, package: str, floor: str
) -> None:
    host = stack.host(stack.container(service))
    version = host.package(package).version
    host.run_expect([0], f"dpkg --compare-versions {version} ge {floor}")


def test_open_files_follow_the_setting(stack: Stack, settings: dict[str, str]) -> None:
    for container in stack.containers("pgbouncer"):
        limits = stack.host(container).file("/proc/1/limits").content_string
        (line,) = (one for one in limits.splitlines() if one.startswith("Max open files"))
        assert line.split()[3:5] == [settings["PGBOUNCER_OPEN_FILES"]] * 2
