"""What operate.sh restarts: by apply, tier by tier, to another number of replicas or servers."""

from __future__ import annotations

import pytest

from tests.unit.ops.fake_docker import Docker

NEEDS_RESTART = 4


def test_a_restart_of_postgres_reports_all_that_it_did(docker: Docker) -> None:
    docker.tell("apply --restart", code=NEEDS_RESTART, stderr="host: restart postgres\n")
    docker.tell("restart postgres", stderr="host: restart-postgres\n", paused_seconds=1.5)
    ran = docker.run("restart-postgres", "--json")
    assert ran.exit_code == ran.document["exit_code"] == 0
    assert ran.commands == ["apply --restart", "restart postgres", "apply --restart"]
    assert ran.document["commands"][1]["document"]["paused_seconds"] == 1.5
    assert "restart one" in ran.calls
    assert any(call.endswith("ops dead-man") for call in ran.calls)
    assert "host:" not in ran.stderr


def test_an_env_file_at_fault_ends_it_before_anything_is_restarted(docker: Docker) -> None:
    docker.tell("apply --restart", code=2, faults=["WORKER_THREADS=x"])
    ran = docker.run("restart-postgres", "--json")
    assert ran.exit_code == ran.document["exit_code"] == 2
    assert ran.commands == ["apply --restart"]
    assert not any("restart postgres" in call for call in ran.calls)


def test_what_the_script_itself_refuses_is_in_its_document(docker: Docker) -> None:
    docker.answer("postgres -C max_connections", code=1, stderr="FATAL\nno such setting\n")
    ran = docker.run("restart-postgres", "--json", "--compiled")
    assert ran.exit_code == ran.document["exit_code"] == 3
    (said, refused) = ran.document["faults"]
    assert said.endswith("postgresql.conf failed (1): no such setting")
    assert refused == "postgres refuses the new configuration; nothing was paused"
    assert ran.document["commands"] == []


def test_a_restart_of_the_app_takes_services_beside_json(docker: Docker) -> None:
    docker.tell("restart app", stderr="host: replace-worker w1\n")
    ran = docker.run("restart-app", "--compiled", "--json", "worker")
    assert (ran.exit_code, ran.commands) == (0, ["restart app worker"])
    assert "restart w1" in ran.calls


def test_apply_with_restarts_holds_the_documents_of_the_scripts_that_it_runs(
    docker: Docker,
) -> None:
    asked = "host: restart postgres api worker\n"
    docker.tell("apply --restart --json", code=NEEDS_RESTART, stderr=asked)
    docker.tell("apply --json", steps=["files: 3 written"])
    for name in ("restart postgres", "restart app"):
        docker.tell(name)
    ran = docker.run("apply", "--json", "--restart")
    assert ran.exit_code == 0, ran.stderr
    assert ran.commands == [
        "apply --restart",
        "restart-postgres --compiled",
        "restart-app --compiled worker",
        "restart-app --compiled api",
        "apply",
    ]
    postgres = ran.document["commands"][1]["document"]
    assert [one["command"] for one in postgres["commands"]] == ["restart postgres"]


def test_a_migration_that_fails_ends_apply_with_the_reason(docker: Docker) -> None:
    docker.tell("apply --restart", code=NEEDS_RESTART, stderr="host: restart migrate api\n")
    docker.answer("--exit-code-from migrate", code=7, stdout="migrate-1 | no such column\n")
    ran = docker.run("apply", "--json", "--restart")
    assert ran.exit_code == ran.document["exit_code"] == 1
    assert ran.document["faults"] == ["the migration failed; see: docker compose logs migrate"]
    assert ran.commands == ["apply --restart"]
    assert "no such column" in ran.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_apply_without_restarts_runs_one_command(docker: Docker, options: tuple[str, ...]) -> None:
    docker.tell("apply", code=NEEDS_RESTART)
    ran = docker.run("apply", *options)
    assert ran.exit_code == NEEDS_RESTART
    assert len(ran.calls) == 1
    if options:
        assert ran.commands == ["apply"]


def test_a_changed_number_of_replicas_reports_every_command(docker: Docker) -> None:
    for name in ("plan --quiet", "apply --restart", "pgbouncer spread 2"):
        docker.tell(name)
    ran = docker.run("scale-pgbouncer", "--json", "2")
    assert ran.exit_code == 0, ran.stderr
    assert ran.commands == ["apply --restart", "pgbouncer spread 2"]
    checked = next(call for call in ran.calls if "plan --quiet" in call)
    assert "SLUICE_ENV_FILE=/etc/sluice/env/stack.env.candidate" in checked


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_number_that_does_not_fit_leaves_the_env_file(
    docker: Docker, options: tuple[str, ...]
) -> None:
    docker.tell("plan --quiet", code=2, ok=False)
    before = (docker.folder / "stack.env").read_text()
    ran = docker.run("scale-pgbouncer", *options, "30")
    assert ran.exit_code == 2
    assert (docker.folder / "stack.env").read_text() == before
    assert not (docker.folder / "stack.env.candidate").exists()
    if options:
        assert [one["document"]["ok"] for one in ran.document["commands"]] == [False]


def test_no_number_is_a_fault_in_the_document(docker: Docker) -> None:
    ran = docker.run("scale-pgbouncer", "--json", 'a "\\')
    assert ran.exit_code == ran.document["exit_code"] == 2
    assert ran.document["faults"][0].startswith(
        "usage: operate.sh scale-pgbouncer [--json] N (make "
    )


def test_what_an_interrupted_run_left_out_is_started(docker: Docker) -> None:
    docker.answer("restart pgbouncer", stdout="host: start pgbouncer=3 worker=1\n")
    docker.answer("--status exited pgbouncer", stdout="two\nthree\n")
    docker.answer("--status exited worker")
    ran = docker.run("restart-pgbouncer")
    assert ran.exit_code == 0
    created = [call for call in ran.calls if " create " in call]
    assert [call.partition(" create ")[2] for call in created] == [
        "--no-recreate --scale pgbouncer=3 pgbouncer",
        "--no-recreate --scale worker=1 worker",
    ]
    assert "start two three" in ran.calls


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_change_of_replicas_that_ends_early_says_how_to_finish_and_how_to_go_back(
    docker: Docker, options: tuple[str, ...]
) -> None:
    docker.tell("plan --quiet")
    docker.tell("apply --restart", code=1)
    file = docker.folder / "stack.env"
    file.chmod(0o640)
    ran = docker.run("scale-pgbouncer", *options, "3")
    printed = (
        "PGBOUNCER_REPLICAS is 3; to finish: make scale-pgbouncer N=3; "
        "to go back: make scale-pgbouncer N=2"
    )
    assert ran.exit_code == 1
    assert f"scale-pgbouncer: {printed}\n" in ran.stderr
    assert file.read_text().startswith("PGBOUNCER_REPLICAS=3\n")
    assert file.stat().st_mode & 0o777 == 0o640
    if options:
        assert ran.document["faults"] == [printed]


@pytest.mark.parametrize("script", ["restart-pgbouncer", "scale-pgbouncer"])
def test_a_container_that_cannot_be_removed_is_reported_with_the_reason(
    docker: Docker, script: str
) -> None:
    steps = {"restart pgbouncer": "replace-pgbouncer", "pgbouncer retire": "remove-pgbouncer"}
    for command, step in steps.items():
        docker.answer(command, code=1, stdout=f"host: {step} p1\n")
    docker.answer("config --hash", stdout="pgbouncer another\n")
    docker.answer("rm --force p1", code=1, stderr="device or resource busy\n")
    ran = docker.run(script, *(["1"] if script.startswith("scale") else []))
    assert "docker rm --force p1 failed (1):\ndevice or resource busy\n" in ran.stderr


def test_apply_with_restarts_finishes_what_a_killed_run_had_compiled(docker: Docker) -> None:
    docker.tell("apply --json")
    docker.tell("apply --restart --json")
    docker.tell("restart app")
    docker.answer("config --hash worker", stdout="worker another\n")
    ran = docker.run("apply", "--json", "--restart")
    assert ran.exit_code == 0, ran.stderr
    assert ran.commands == ["apply --restart", "restart-app --compiled worker", "apply"]


def test_one_server_of_three_is_compiled_only_once_the_first_is_the_primary(
    docker: Docker,
) -> None:
    docker.answer("service=postgres-1", stdout="one\n")
    docker.answer("exec --no-TTY postgres-1 psql", stdout="t\n")
    docker.answer("exec --no-TTY postgres-2 psql", stdout="f\n")
    docker.tell("switchover", code=3, faults=["there is one server only"])
    ran = docker.run("apply", "--restart", "--json")
    assert ran.exit_code == 3
    assert ran.commands == ["switchover --to postgres-1"]
    assert "compiled for one already: write POSTGRES_INSTANCES=3" in ran.document["faults"][-1]


def test_an_instance_without_a_container_is_started_and_none_is_removed(docker: Docker) -> None:
    docker.answers = {
        "ps --all --quiet postgres-2": {"code": 0, "stdout": "", "stderr": "", "hangs": 0}
    } | docker.answers
    docker.answer("service=postgres-1", stdout="one\n")
    docker.answer("restart postgres", stdout="host: replace-instance postgres-2\n")
    ran = docker.run("restart-postgres", "--compiled")
    assert ran.exit_code == 0, ran.stderr
    assert not any(call.startswith(("rm", "stop")) for call in ran.calls)
    assert any("create --no-recreate postgres-2" in call for call in ran.calls)


def test_a_failover_while_one_server_is_compiled_names_the_way_back(docker: Docker) -> None:
    docker.answer("service=postgres-1", stdout="one\n")
    docker.answer("exec --no-TTY postgres-1 psql", stdout="f\n")
    docker.tell("apply --restart", code=NEEDS_RESTART)
    docker.answer("entrypoint leave", code=1, stderr="this instance is not the primary\n")
    ran = docker.run("apply", "--restart", "--json")
    assert ran.exit_code == 1
    assert "any more: write POSTGRES_INSTANCES=3" in ran.document["faults"][-1]
    # The standbys are started again, and the id of the set is as it was.
    assert any(call.startswith("start") for call in ran.calls)
    assert not any("postgres-cluster.id" in call for call in ran.calls)


@pytest.mark.parametrize(
    ("state", "again"), [("exited 0", False), ("exited 1", True), ("created 0", True)]
)
def test_a_migration_that_did_not_end_well_is_run_again(
    docker: Docker, state: str, again: bool
) -> None:
    docker.tell("apply")
    docker.answer("ps --all --quiet migrate", stdout="m\n")
    docker.answer("inspect --format {{.State.Status}}", stdout=f"{state}\n")
    ran = docker.run("apply", "--restart")
    assert ran.exit_code == 0, ran.stderr
    assert any("--exit-code-from migrate" in call for call in ran.calls) is again


def test_a_migration_that_is_due_stays_so_until_it_has_run(docker: Docker) -> None:
    docker.answer("apply --restart", code=1, stdout="host: restart migrate\n")
    ran = docker.run("apply", "--restart")
    assert ran.exit_code == 1
    assert any(call.endswith("rm --force migrate") for call in ran.calls)


@pytest.fixture
def three(docker: Docker) -> Docker:
    """Have three servers run."""
    (docker.folder / "stack.env").write_text("POSTGRES_INSTANCES=3\nPGBOUNCER_PORT=6432\n")
    docker.answer("service=postgres-1", stdout="one\n")
    docker.answer("ps --all --quiet", stdout="one\n")
    docker.tell("apply")
    docker.answer("inspect --format {{.State.Status}}", stdout="exited 0\n")
    return docker


def test_of_three_servers_each_is_asked_for_its_definition(three: Docker) -> None:
    three.answer("config --hash postgres-2", stdout="postgres-2 another\n")
    three.tell("restart postgres")
    ran = three.run("apply", "--restart", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert ran.commands == ["apply --restart", "restart-postgres --compiled", "apply"]


def test_an_instance_that_does_not_run_is_due(three: Docker) -> None:
    nothing = {"code": 0, "stdout": "", "stderr": "", "hangs": 0}
    three.answers = {"ps --quiet --status running postgres-2": nothing} | three.answers
    three.tell("restart postgres")
    ran = three.run("apply", "--restart", "--json")
    assert "restart-postgres --compiled" in ran.commands, ran.stderr


def test_another_definition_of_haproxy_restarts_no_server(three: Docker) -> None:
    same = {"code": 0, "stdout": "", "stderr": "", "hangs": 0}
    hashes = {f"config --hash postgres-{one}": same for one in (1, 2, 3)}
    three.answers = hashes | three.answers
    three.answer("config --hash postgres", stdout="postgres another\n")
    ran = three.run("apply", "--restart", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert ran.commands == ["apply --restart", "apply"]
    removed = [call for call in ran.calls if "rm --stop --force" in call]
    assert [call.rpartition(" ")[2] for call in removed] == ["postgres"]


def test_an_instance_that_an_interrupted_run_stopped_is_started_before_all_else(
    three: Docker,
) -> None:
    nothing = {"code": 0, "stdout": "", "stderr": "", "hangs": 0}
    three.answers = {
        "ps --quiet --status running postgres-2": nothing,
        "--status exited postgres-2": {**nothing, "stdout": "two\n"},
    } | three.answers
    three.tell("restart postgres")
    ran = three.run("restart-postgres", "--compiled")
    assert ran.exit_code == 0, ran.stderr
    assert "postgres-2 does not run; starting it\n" in ran.stderr
    started = ran.calls.index("start two")
    assert started < next(at for at, one in enumerate(ran.calls) if "ops restart postgres" in one)


@pytest.mark.parametrize("asks", ["recreate", "restart"])
def test_another_number_of_replicas_alone_restarts_none(docker: Docker, asks: str) -> None:
    (docker.folder / "stack.env").write_text("PGBOUNCER_REPLICAS=3\nWORKER_REPLICAS=1\n")
    docker.answer("inspect --format {{.State.Status}}", stdout="exited 0\n")
    for name in ("plan --quiet", "pgbouncer spread 3", "restart pgbouncer"):
        docker.tell(name)
    docker.tell("apply --json")
    docker.tell("apply --restart", code=NEEDS_RESTART, stderr=f"host: {asks} pgbouncer\n")
    ran = docker.run("apply", "--restart", "--json")
    assert ("restart-pgbouncer" in ran.commands) is (asks == "restart"), ran.stderr


def test_a_ca_that_one_etcd_has_not_taken_is_not_reported_as_taken(docker: Docker) -> None:
    docker.answer("rotate certificates", code=1, stdout="host: trust .trusted\n")
    docker.answer("service=etcd-1", stdout="etcd-1\n")
    docker.answer("restart etcd-1", code=1, stderr="no such container\n")
    ran = docker.run("rotate-certificates", "--ca")
    assert ran.exit_code == 1
    assert not any(call.startswith("restart") and "etcd-1" not in call for call in ran.calls)
    assert not any("/out/ops/.trusted" in call for call in ran.calls)
