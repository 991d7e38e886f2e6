"""The scripts on the host that are no operations: facts, base image, disk, logs, swarm, destroy."""

from __future__ import annotations

import os

import pytest

from tests import command
from tests.unit.ops.fake_docker import Docker


def test_an_env_file_that_is_a_pipe_is_refused(docker: Docker) -> None:
    path = docker.folder / "stack.env"
    path.unlink()
    os.mkfifo(path)
    ran = docker.run("operate.sh", "plan")
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr == f"operate: {path} is not a regular file\n"


def test_a_disk_that_cannot_be_looked_at_is_reported_with_the_reason(docker: Docker) -> None:
    docker.answer("ps --all --quiet", stdout="one\n")
    docker.answer("inspect --format", stdout='{"service": "postgres"}\n')
    docker.answer("--block-size=1", code=1, stderr='before\nservice "postgres" is not running\n')
    ran = docker.run("containers.sh")
    assert (ran.exit_code, ran.stdout) == (0, '{"service": "postgres"}\n')
    assert ran.stderr == (
        "containers: disk of the data volume: df in postgres failed (1): "
        'service "postgres" is not running\n'
    )


def test_the_disk_is_reported_in_one_line(docker: Docker) -> None:
    docker.answer("ps --all --quiet", stdout="one\n")
    docker.answer("df --block-size=1", stdout="  1B-blocks     Avail\n  1000   10\n")
    ran = docker.run("containers.sh")
    assert ran.stdout == '{"disk": {"size": 1000, "free": 10}}\n'


def test_what_each_pgbouncer_holds_is_reported(docker: Docker) -> None:
    docker.answer("ps --all --quiet", stdout="one\n")
    docker.answer("service=pgbouncer --format", stdout="s-pgbouncer-1\ns-pgbouncer-2\n")
    docker.answer("exec s-pgbouncer-1 sed", code=2, stdout="122880\n", stderr="no such file\n")
    docker.answer("exec s-pgbouncer-2 sed", code=1, stderr="container is paused\n")
    docker.answer("df --block-size=1", stdout="  1B-blocks     Avail\n  1000   10\n")
    ran = docker.run("containers.sh")
    assert ran.exit_code == 0
    assert ran.stdout.splitlines() == [
        '{"memory": {"name": "/s-pgbouncer-1", "bytes": 122880}}',
        '{"disk": {"size": 1000, "free": 10}}',
    ]


def test_a_daemon_that_does_not_answer_is_not_taken_for_a_missing_base_image(
    docker: Docker,
) -> None:
    docker.answer("image inspect", code=1, stderr="permission denied on the Docker socket\n")
    ran = docker.run("base-image.sh")
    assert "base-image: permission denied on the Docker socket\n" in ran.stderr


@pytest.fixture
def postgres(docker: Docker) -> Docker:
    docker.answer("ps --all --quiet postgres", stdout="one\n")
    docker.answer("{{.Name}}", stdout="/p1\n")
    docker.answer("free-ballast", stdout="the ballast is removed\n")
    return docker


def test_free_disk_leaves_a_server_alone_that_answers(postgres: Docker) -> None:
    ran = postgres.run("free-disk.sh")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("the ballast is removed\n")
    assert not any(call.startswith("restart") for call in ran.calls)


def test_free_disk_starts_a_server_that_ended_once_and_says_when_it_ends_again(
    postgres: Docker,
) -> None:
    postgres.answer("exec", code=1, stderr="is restarting")
    postgres.answer("{{.State.Status}}", stdout="restarting\n")
    ran = postgres.run("free-disk.sh")
    assert ran.exit_code == 1
    assert not any("entrypoint free-ballast" in call for call in ran.calls)
    assert ran.calls.count("restart p1") == 1
    assert "p1 ended again: free space on its disk" in ran.stderr


def test_free_disk_uses_a_running_server_where_no_other_container_can_start(
    postgres: Docker,
) -> None:
    postgres.answers = {
        "run --rm": {"code": 1, "stdout": "", "stderr": "no space left on device\n"}
    } | postgres.answers
    ran = postgres.run("free-disk.sh")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("the ballast is removed\n")
    assert any("exec --no-TTY postgres entrypoint free-ballast" in call for call in ran.calls)


def test_free_disk_says_what_to_do_where_no_container_can_start(postgres: Docker) -> None:
    postgres.answer("free-ballast", code=1, stderr="no space left on device\n")
    ran = postgres.run("free-disk.sh")
    assert ran.exit_code == 1
    assert "no space left on device" in ran.stderr
    assert "docker builder prune" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--request", "a b"], "REQUEST=a b is not a request id"),
        (["--request", "-x"], "REQUEST=-x is not a request id"),
        (["--request", "x" * 129], "is not a request id"),
        (["--lines", "many"], "LINES=many is not a number of lines, or all"),
        (["--since", "1;2"], "SINCE=1;2 is not a time"),
        (["--request", "x", "--lines", "3"], "leave LINES out"),
        (["--lines"], "needs a value"),
        (["--what"], "usage:"),
    ],
)
def test_logs_refuses_what_it_cannot_look_for(
    docker: Docker, arguments: list[str], fault: str
) -> None:
    ran = docker.run("logs.sh", *arguments)
    assert ran.exit_code == 2
    assert fault in ran.stderr
    assert ran.calls == []


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], "--tail 100 --follow"),
        (["--lines", "7", "--no-follow"], "--tail 7"),
        (["--since", "10m"], "--since 10m --tail all --follow"),
    ],
)
def test_logs_follows_the_last_lines_or_what_it_is_asked_for(
    docker: Docker, arguments: list[str], asked: str
) -> None:
    ran = docker.run("logs.sh", *arguments)
    assert ran.exit_code == 0, ran.stderr
    (call,) = [one for one in ran.calls if one.startswith("compose")]
    assert call.endswith(f"--profile * logs --no-color --timestamps {asked}")
    (call,) = [one for one in ran.calls if one.startswith("run")]
    assert "--network none" in call
    assert call.endswith(" logs")


def test_logs_of_a_request_gives_the_api_s_lines_first_and_the_exit_code_of_the_search(
    docker: Docker,
) -> None:
    docker.answer("sluice-infra", code=1)
    ran = docker.run("logs.sh", "--request", "x.1", "--json")
    assert ran.exit_code == 1
    asked = [one.partition("--timestamps ")[2] for one in ran.calls if one.startswith("compose")]
    assert asked == ["api", "worker pgbouncer postgres"]
    assert any(call.endswith("logs --json --request x.1") for call in ran.calls)


@pytest.mark.parametrize("operation", ["images", "status", "down"])
def test_a_docker_that_manages_no_swarm_is_named(docker: Docker, operation: str) -> None:
    docker.answer("info --format {{.Swarm.ControlAvailable}}", stdout="false\n")
    docker.answer("info --format {{.Swarm.LocalNodeState}}", stdout="inactive\n")
    ran = docker.run("swarm.sh", operation)
    assert ran.exit_code == 2
    assert "swarm: this Docker host is no manager (swarm: inactive); make it one" in ran.stderr
    assert not any("stack" in call or "save" in call for call in ran.calls)


@pytest.mark.parametrize("made", ["no volume", "an empty volume", "secrets"])
def test_the_path_is_looked_at_only_from_the_manager_that_has_the_secrets(
    docker: Docker, made: str
) -> None:
    docker.answer("info --format {{.Swarm.ControlAvailable}}", stdout="true\n")
    docker.answer("service ls --quiet", stdout="id\n")
    docker.answer("volume ls", stdout="" if made == "no volume" else "secrets\n")
    docker.answer("/secrets/ca.crt", code=0 if made == "secrets" else 1)
    ran = docker.run("swarm.sh", "status")
    looked = any(call.endswith("ops status") for call in ran.calls)
    assert looked is (made == "secrets")
    assert ran.exit_code == (0 if looked else 3), ran.stderr
    assert ("the stack's secrets are not on this manager" in ran.stderr) is not looked


def test_without_a_stack_there_is_nothing_to_remove(docker: Docker) -> None:
    docker.answer("info --format {{.Swarm.ControlAvailable}}", stdout="true\n")
    ran = docker.run("swarm.sh", "down")
    assert ran.exit_code == 3
    assert ran.stderr.startswith("swarm: no stack ")
    assert not any("stack rm" in call for call in ran.calls)


@pytest.mark.parametrize("keep", [False, True])
def test_destroy_removes_the_volumes_of_either_form(docker: Docker, keep: bool) -> None:
    project = project_of(docker)
    names = ("backups", "secrets", "postgres-data-2", "etcd-data-1")
    listed = "".join(f"{project}_{name}\n" for name in names)
    docker.answer("volume ls --quiet --filter label=com.docker.compose", stdout=listed)
    docker.answer("volume ls --quiet --filter label=sluice.restored", stdout="restored\n")
    ran = docker.run("destroy.sh", "yes", *(["backups"] if keep else []))
    assert ran.exit_code == 0, ran.stderr
    (gone,) = [call.split()[2:] for call in ran.calls if call.startswith("volume rm")]
    kept = {f"{project}_backups", f"{project}_secrets"} if keep else set()
    restored = set() if keep else {"restored"}
    assert set(gone) == {f"{project}_{name}" for name in names} - kept | restored
    assert any("down --remove-orphans" in call for call in ran.calls)


def test_destroy_again_with_nothing_but_what_is_kept_is_no_failure(docker: Docker) -> None:
    project = project_of(docker)
    docker.answer("volume ls", stdout=f"{project}_backups\n{project}_secrets\n")
    ran = docker.run("destroy.sh", "yes", "backups")
    assert ran.exit_code == 0, ran.stderr
    assert "kept: " in ran.stderr
    assert not any(call.startswith("volume rm") for call in ran.calls)


def test_destroy_removes_what_a_killed_command_left_and_names_who_uses_the_volumes(
    docker: Docker,
) -> None:
    volume = f"{project_of(docker)}_secrets"
    docker.answer("volume ls --quiet --filter label=com.docker.compose", stdout=f"{volume}\n")
    docker.answer("ps --all --quiet --filter status=created", stdout="left\n")
    docker.answer("ps --all --format", stdout="client\n")
    ran = docker.run("destroy.sh", "yes")
    assert ran.exit_code == 1
    assert "docker rm --force client" in ran.stderr
    assert "rm left" in ran.calls
    looks = [one for one in ran.calls if "--filter volume=" in one]
    assert len(looks) == 2
    assert all(one.endswith(f"--filter volume={volume}") for one in looks)
    assert not any(one.startswith(("volume rm", "network rm")) for one in ran.calls)


def project_of(docker: Docker) -> str:
    """Return the project whose volumes the scripts name."""
    (docker.folder / "given").mkdir()
    ran = docker.run("backup.sh", "key")
    return ran.stderr.split("the volume ")[1].split("_secrets")[0]


@pytest.mark.parametrize("name", ["RESTART", "CA", "JSON"])
def test_a_switch_of_make_that_is_neither_yes_nor_no_is_refused(name: str) -> None:
    ran = command.run("make", "--dry-run", "apply", f"{name}=ja")
    assert ran.exit_code == 2
    assert f"{name}=ja: must be yes or no" in ran.stderr


def test_a_switch_that_is_no_and_a_variable_of_the_shell_switch_nothing_on() -> None:
    shell = {"CA": "/etc/ssl/ca.pem", "JSON": "yes", "NAME": "host", "CONFIRM": "yes"}
    for target, script in (
        ("rotate-certificates", "operate.sh rotate-certificates"),
        ("client-url", "operate.sh client-url"),
        ("destroy", 'destroy.sh "" ""'),
    ):
        ran = command.run("make", "--dry-run", target, "DUE=no", env=shell)
        assert ran.exit_code == 0, ran.stderr
        assert ran.stdout.splitlines()[-1].split() == f"infra/host/{script}".split()
    asked = command.run("make", "--dry-run", "rotate-certificates", "DUE=yes", env=shell)
    assert asked.stdout.splitlines()[-1].split()[-1] == "--due"
