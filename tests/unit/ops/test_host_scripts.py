"""The scripts on the host, against a docker that only answers: what they print, and what they do.

The commands inside the containers are tested on their own; here it is the scripts that count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fix_stack import on_host, poll
from tests.unit.infra.support import REPOSITORY

# Notes each call; answers a command as answers.json says, everything else with nothing.
DOCKER = """#!{python} -IS
import json, sys, time
from pathlib import Path

words, folder = sys.argv[1:], Path({folder!r})
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(words) + chr(10))
text = " ".join(words[words.index("ops") + 1:] if "ops" in words else words)
answers = json.loads((folder / "answers.json").read_text())
known = [one for part, one in answers.items() if part in text]
if known:
    sys.stderr.write(known[0]["stderr"])
    sys.stdout.write(known[0]["stdout"])
    if known[0]["hangs"]:
        sys.stdout.flush()
        sys.stdin.read()
        with (folder / "calls").open("a") as calls:
            calls.write("alone: " + text + chr(10))
        time.sleep(known[0]["hangs"])
    sys.exit(known[0]["code"])
"""
NEEDS_RESTART = 4


@dataclass
class Ran:
    """How a script ended, and what it asked of docker."""

    exit_code: int
    stdout: str
    stderr: str
    calls: list[str]

    @property
    def document(self) -> dict[str, Any]:
        """Return the one document that it printed."""
        return dict(json.loads(self.stdout))

    @property
    def commands(self) -> list[str]:
        """Return the commands that the document names."""
        return [one["command"] for one in self.document["commands"]]


@dataclass
class Docker:
    """A docker whose answers a test gives; a key is a part of the command's text."""

    folder: Path
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(
        self,
        command: str,
        *,
        code: int = 0,
        stdout: str = "",
        stderr: str = "",
        hangs: float = 0.0,
    ) -> None:
        """Answer a command; where it `hangs`, until its standard input ends and so long after."""
        answer = {"code": code, "stdout": stdout, "stderr": stderr, "hangs": hangs}
        self.answers[command] = answer

    def tell(self, command: str, *, code: int = 0, stderr: str = "", **fields: object) -> None:
        """Answer a command with a document over several lines."""
        document = {"exit_code": code, **fields}
        self.answer(command, code=code, stdout=json.dumps(document, indent=2) + "\n", stderr=stderr)

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        (self.folder / "answers.json").write_text(json.dumps(self.answers))
        return subprocess.Popen(
            [*on_host(script), *arguments],
            env={
                **os.environ,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "SLUICE_ENV_DIR": str(self.folder),
                "TMPDIR": str(self.folder / "tmp"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str) -> Ran:
        return self.finish(self.start(script, *arguments))

    def finish(self, process: subprocess.Popen[str]) -> Ran:
        stdout, stderr = process.communicate(timeout=60)
        assert list((self.folder / "tmp").iterdir()) == [], "a temporary file stays"
        calls = self.folder / "calls"
        made = calls.read_text().splitlines() if calls.exists() else []
        return Ran(process.returncode, stdout, stderr, made)

    def noted(self, call: str) -> bool:
        calls = self.folder / "calls"
        return calls.exists() and call in calls.read_text()


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    program = tmp_path / "docker"
    program.write_text(DOCKER.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "stack.env").write_text("PGBOUNCER_REPLICAS=2\nWORKER_REPLICAS=1\n")
    fake = Docker(tmp_path)
    # Asked of every container: names and ids.
    fake.answer("ps --quiet pgbouncer", stdout="one\ntwo\n")
    fake.answer("ps --quiet", stdout="one\n")
    fake.answer("images --quiet", stdout="id\n")
    return fake


def test_a_person_gets_the_lines_and_the_host_its_steps(docker: Docker) -> None:
    docker.answer(
        "restart pgbouncer", stdout="host: replace-pgbouncer p1\nserve\n", stderr="p1: empty\n"
    )
    ran = docker.run("restart-pgbouncer")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "serve\n", "p1: empty\n")
    assert "restart p1" in ran.calls
    assert not any("--json" in call for call in ran.calls)


def test_a_program_gets_one_document_and_the_host_its_steps(docker: Docker) -> None:
    progress = "p1: empty\nhost: replace-pgbouncer p1\np1: new\n"
    docker.tell("restart pgbouncer --json", stderr=progress, processes=[{"process": "p1"}])
    ran = docker.run("restart-pgbouncer", "--json")
    assert (ran.exit_code, ran.stderr) == (0, "p1: empty\np1: new\n")
    assert ran.document == {
        "exit_code": 0,
        "faults": [],
        "commands": [
            {
                "command": "restart pgbouncer",
                "document": {"exit_code": 0, "processes": [{"process": "p1"}]},
            }
        ],
    }
    assert "restart p1" in ran.calls


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("code", [1, 2, 3])
def test_the_exit_code_of_the_command_is_that_of_the_script(
    docker: Docker, options: tuple[str, ...], code: int
) -> None:
    docker.tell("restart pgbouncer", code=code, faults=["why"])
    ran = docker.run("restart-pgbouncer", *options)
    assert ran.exit_code == code
    if options:
        assert ran.document["exit_code"] == code
        assert ran.document["commands"][0]["document"]["faults"] == ["why"]


def test_a_command_that_died_without_a_word_is_a_fault(docker: Docker) -> None:
    docker.answer("restart pgbouncer", code=137)
    ran = docker.run("restart-pgbouncer", "--json")
    assert ran.document == {
        "exit_code": 137,
        "faults": ["restart pgbouncer ended with 137 and printed no document"],
        "commands": [],
    }


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


def test_a_preset_is_written_after_its_plan(docker: Docker) -> None:
    docker.tell("preset small --json", ok=True)
    docker.answer("preset small --print", stdout="API_PORT=8080\n")
    ran = docker.run("preset", "--json", "small")
    assert (ran.exit_code, ran.commands) == (0, ["preset small"])
    assert (docker.folder / "stack.env").read_text() == "API_PORT=8080\n"


def test_a_name_with_quotes_stays_one_document(docker: Docker) -> None:
    docker.tell("preset", code=2, faults=["preset 'a\"b' is not one of laptop"])
    ran = docker.run("preset", "--json", 'a"b\\c')
    assert ran.exit_code == 2
    assert ran.commands == ['preset a"b\\c']


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_preset_that_the_host_cannot_carry_is_not_written(
    docker: Docker, options: tuple[str, ...]
) -> None:
    before = (docker.folder / "stack.env").read_text()
    docker.tell("preset large --print", code=2, ok=False, stderr="POSTGRES_CPUS=24.0 exceeds\n")
    ran = docker.run("preset", *options, "large")
    assert ran.exit_code == 2
    assert "POSTGRES_CPUS=24.0 exceeds" in ran.stderr
    assert (docker.folder / "stack.env").read_text() == before
    assert not (docker.folder / "stack.env.candidate").exists()
    if options:
        assert ran.commands == ["preset large"]


def test_the_check_asks_the_host_and_not_compose(docker: Docker) -> None:
    docker.answer("compose version", stdout="2.26.1\n")
    ran = docker.run("check")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "", "")
    assert {call for call in ran.calls if call.startswith("compose")} == {"compose version --short"}
    (judged,) = [call for call in ran.calls if call.endswith("plan --quiet")]
    for part in ("--network none", "dst=/etc/sluice/env,readonly", "--env SLUICE_HOST"):
        assert part in judged


def test_warnings_are_shown_where_they_are_asked_for(docker: Docker) -> None:
    docker.answer("plan --quiet", stderr="warning: small\n")
    assert docker.run("check").stderr == ""
    assert docker.run("check", "--warn").stderr == "warning: small\n"


def test_lost_secrets_are_judged_by_the_compiled_files_and_the_data(docker: Docker) -> None:
    docker.answer("volume ls", stdout="one\n")
    # PostgreSQL does not run, so whether there is a database is looked up.
    del docker.answers["ps --quiet"]
    ran = docker.run("check")
    (looked,) = [call for call in ran.calls if "PG_VERSION" in call]
    assert "_postgres-data:/data:ro" in looked
    (judged,) = [call for call in ran.calls if call.endswith("plan --quiet")]
    for tier in ("postgres", "pgbouncer", "app", "ops"):
        assert f"_{tier}-config:/out/{tier}:ro" in judged
    assert "_secrets:/secrets:ro" in judged


def test_faults_of_the_check_are_in_its_document(docker: Docker) -> None:
    docker.tell("plan --quiet --json", code=2, ok=False)
    ran = docker.run("check", "--json")
    assert ran.exit_code == ran.document["exit_code"] == 2
    assert ran.document["commands"][0]["document"]["ok"] is False


def test_open_files_that_docker_refuses_are_judged_with_the_limit(docker: Docker) -> None:
    (docker.folder / "stack.env").write_text("PGBOUNCER_OPEN_FILES=50000\n")
    docker.answer("plan --quiet", code=126, stderr="error setting rlimit type 7\n")
    docker.answer("ulimit -Hn", stdout="20000\n")
    ran = docker.run("check")
    first, _, second = [call for call in ran.calls if call.startswith("run ")]
    assert "--ulimit nofile=50000" in first
    assert "--ulimit" not in second


@pytest.mark.parametrize("arguments", [("check",), ("check", "project"), ("plan",)])
def test_a_project_of_another_clone_is_left_alone_and_named(
    docker: Docker, arguments: tuple[str, ...]
) -> None:
    docker.answer("working_dir", stdout=f"{docker.folder}\n")
    ran = docker.run(*arguments)
    assert ran.exit_code == 3
    assert f"was started from {docker.folder}; use that clone" in ran.stderr
    assert not any(call.startswith(("run", "compose")) for call in ran.calls)


@pytest.mark.parametrize("directory", [str(REPOSITORY), "/no/such/directory"])
def test_the_clones_own_project_and_one_that_was_moved_are_its_own(
    docker: Docker, directory: str
) -> None:
    docker.answer("working_dir", stdout=f"{directory}\n")
    assert docker.run("check", "project").exit_code == 0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_step_of_the_host_that_fails_is_reported_with_its_last_lines(
    docker: Docker, options: tuple[str, ...]
) -> None:
    step = "host: restart-postgres\n"
    said = ("", step) if options else (step, "")
    docker.answer("restart postgres", stdout=said[0], stderr=said[1])
    docker.answer("restart one", code=1, stderr="before\nRange of CPUs is from 0.01 to 2.00\n")
    ran = docker.run("restart-postgres", *options, "--compiled")
    assert "docker restart one failed (1):\nbefore\nRange of CPUs is from" in ran.stderr
    if options:
        last = "docker restart one failed (1): Range of CPUs is from 0.01 to 2.00"
        assert last in ran.document["faults"]


def test_the_command_knows_at_once_that_the_script_was_killed_in_a_step(docker: Docker) -> None:
    docker.answer("restart pgbouncer", stdout="host: replace-pgbouncer p1\n", hangs=0.01)
    docker.answer("restart p1", hangs=30.0)
    with docker.start("restart-pgbouncer") as script:
        poll(lambda: docker.noted("restart p1"), seconds=20, what="the step is asked for")
        assert not docker.noted("alone: restart pgbouncer")
        script.kill()
        poll(lambda: docker.noted("alone: restart pgbouncer"), seconds=10, what="it knows")
        # The step outlives the script, as docker's own work does.
        os.killpg(script.pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_signal_waits_for_the_command_to_put_back_what_it_has_begun(
    docker: Docker, options: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    said = {"stdout": json.dumps({"exit_code": 1})} if options else {}
    docker.answer("restart pgbouncer", code=1, hangs=0.5, **said)
    script = docker.start("restart-pgbouncer", *options)
    poll(lambda: docker.noted("restart pgbouncer"), seconds=20, what="the command runs")
    script.send_signal(number)
    ran = docker.finish(script)
    assert ran.exit_code == code
    assert "alone: restart pgbouncer" in " ".join(ran.calls)
    if options:
        assert ran.document["exit_code"] == code
        assert ran.document["commands"][0]["document"] == {"exit_code": 1}


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


def test_apply_with_restarts_finishes_what_a_killed_run_had_compiled(docker: Docker) -> None:
    docker.tell("apply --json")
    docker.tell("apply --restart --json")
    docker.tell("restart app")
    docker.answer("config --hash worker", stdout="worker another\n")
    ran = docker.run("apply", "--json", "--restart")
    assert ran.exit_code == 0, ran.stderr
    assert ran.commands == ["apply --restart", "restart-app --compiled worker", "apply"]


@pytest.mark.parametrize(
    ("published", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("192.0.2.7:80", "http://192.0.2.7:80"),
        ("::1:8080", "http://[::1]:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        (":::8080", "http://[::1]:8080"),
        ("2001:db8::7:8080", "http://[2001:db8::7]:8080"),
    ],
)
def test_the_url_is_the_one_by_which_this_host_reaches_the_api(
    docker: Docker, published: str, url: str
) -> None:
    docker.answer("port api 8000", stdout=f"{published}\n")
    assert docker.run("url").stdout == f"{url}\n"


def test_doctor_judges_files_as_the_user_and_without_network(
    docker: Docker, tmp_path: Path
) -> None:
    docker.tell("doctor --json --sql", code=1, findings=[])
    docker.answer("images", stdout="abc\n")
    sources = tmp_path / "some sources"
    sources.mkdir()
    ran = docker.run("doctor", "--json", str(sources))
    assert (ran.exit_code, ran.document) == (1, {"exit_code": 1, "findings": []})
    (call,) = [one for one in ran.calls if one.startswith("run ")]
    assert f"--user {os.getuid()}:{os.getgid()} " in call
    assert f"src={sources},dst=/given/some sources,readonly" in call
    assert "--network none" in call
    assert call.endswith("doctor --json --sql /given/some sources")


def test_doctor_without_a_path_asks_the_host_and_the_stack(docker: Docker) -> None:
    docker.answer("images", stdout="abc\n")
    docker.tell("doctor", not_judged=[])
    ran = docker.run("doctor", "--json")
    assert (ran.exit_code, ran.document) == (0, {"exit_code": 0, "not_judged": []})
    assert any("--env SLUICE_CONTAINERS ops doctor --json" in call for call in ran.calls)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nowhere"], "nowhere: no such file or directory"),
        (["a", "b"], "usage: operate.sh doctor [--json] [PATH]"),
    ],
)
def test_doctor_refuses_a_path_that_is_not_there(
    docker: Docker, arguments: list[str], fault: str
) -> None:
    ran = docker.run("doctor", "--json", *arguments)
    assert ran.exit_code == 2
    assert fault in ran.document["faults"][0]
    assert not [call for call in ran.calls if call.startswith("run")]


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
    assert call.endswith(f"logs --no-color --timestamps {asked}")
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


def test_without_a_stack_there_is_nothing_to_remove(docker: Docker) -> None:
    docker.answer("info --format {{.Swarm.ControlAvailable}}", stdout="true\n")
    ran = docker.run("swarm.sh", "down")
    assert ran.exit_code == 3
    assert ran.stderr.startswith("swarm: no stack ")
    assert not any("stack rm" in call for call in ran.calls)


def test_the_key_is_put_into_a_volume_that_compose_knows_as_its_own(
    docker: Docker, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    ran = docker.run("backup.sh", "key", "--from", str(given))
    assert ran.exit_code == 0, ran.stderr
    (made,) = [call for call in ran.calls if call.startswith("volume create")]
    project = made.rpartition(" ")[2].removesuffix("_secrets")
    assert f"--label com.docker.compose.project={project} " in made
    assert "--label com.docker.compose.volume=secrets " in made
    (taken,) = [call for call in ran.calls if "infra.backup.key" in call]
    assert not taken.endswith("--replace")
    assert ran.calls.index(made) < ran.calls.index(taken)


def test_a_key_is_printed_only_where_there_are_secrets(docker: Docker) -> None:
    ran = docker.run("backup.sh", "key")
    assert ran.exit_code == 3
    assert "_secrets is not there" in ran.stderr
    assert not any(call.startswith(("volume create", "run")) for call in ran.calls)


@pytest.mark.parametrize("arguments", [("restore", "--json"), ("drill", "--json")])
def test_a_repository_that_is_not_there_is_a_fault_of_the_document(
    docker: Docker, arguments: tuple[str, ...]
) -> None:
    (docker.folder / "stack.env").write_text("BACKUP_DIRECTORY=/nowhere/at/all\n")
    docker.answer("volume ls", stdout="there\n")
    ran = docker.run("backup.sh", *arguments)
    assert (ran.exit_code, ran.document["faults"]) == (
        3,
        ["BACKUP_DIRECTORY=/nowhere/at/all: no such directory"],
    )
    assert not any("/var/lib/pgbackrest" in call for call in ran.calls)


@pytest.mark.parametrize("fails", [False, True])
def test_a_swap_is_one_only_where_the_data_were_exchanged(docker: Docker, fails: bool) -> None:
    docker.answer("volume ls", stdout="there\n")
    docker.answer("volume inspect", stdout="/volumes/one/_data\n")
    docker.answer("--entrypoint bash", code=int(fails), stderr="mv: no space left\n")
    docker.answer("restart postgres", stdout="host: restart-postgres\n")
    docker.answer("ps --all --quiet --filter", stdout="")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == int(fails), ran.stderr
    assert ("the server has the restored data" in ran.stderr) is not fails
    assert ("docker volume rm" in ran.stderr) is not fails
    if fails:
        assert "the data could not be exchanged: the server has those" in ran.stderr
    assert "start one" in ran.calls


def test_three_instances_get_another_id_only_with_the_restored_data(docker: Docker) -> None:
    (docker.folder / "stack.env").write_text("POSTGRES_INSTANCES=3\n")
    docker.answer("volume ls", stdout="there\n")
    docker.answer("volume inspect", stdout="/volumes/one/_data\n")
    docker.answer("--entrypoint bash", code=1)
    docker.answer("ps --all --quiet --filter", stdout="one\n")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 1
    assert "to go on with the data that are there: make up" in ran.stderr
    assert not any("postgres-cluster.id" in call for call in ran.calls)
    docker.answer("--entrypoint bash")
    docker.answer("--entrypoint rm", code=1, stderr="no space left\n")
    ran = docker.run("backup.sh", "swap", "restored")
    assert ran.exit_code == 1
    assert "to start: run what failed above, then: make up" in ran.stderr
    assert any("/secrets/postgres-cluster.id" in call for call in ran.calls)
    assert not any(" run --rm --no-deps config" in call for call in ran.calls)


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    made = Exchange(tmp_path)
    for name in ("restored", "data", "data-2", "data-3"):
        (tmp_path / name / "17").mkdir(parents=True)
        (tmp_path / name / "17" / "of").write_text(name)
    (tmp_path / "restored" / "restored.json").touch()
    return made


@dataclass
class Exchange:
    """Four volumes, and the exchange of their data as backup.sh has a container make it."""

    folder: Path

    def run(self, *others: str, fails: str = "", copies: bool = False) -> int:
        """Exchange; a call of mv whose words have this text fails; `copies` as between disks."""
        script = (REPOSITORY / "infra/host/backup.sh").read_text()
        script = script.partition('"$backup_image" -euc \'')[2].partition('\' - "$there"')[0]
        if copies:
            script = script.replace("/volumes/restored", str(self.folder / "restored"))
        program = self.folder / "mv"
        no = f'case "$*" in *{fails}*) exit 1;; esac\n' if fails else ""
        program.write_text(f'#!/bin/sh\n{no}exec /usr/bin/mv "$@"\n')
        program.chmod(0o755)
        volumes = [str(self.folder / one) for one in ("restored", "data", *others)]
        done = subprocess.run(
            ["bash", "-euc", script, "-", *volumes],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}"},
            check=False,
        )
        return done.returncode

    @property
    def holds(self) -> dict[str, str]:
        """Return whose data are where."""
        found = sorted(self.folder.glob("*/17*/of"))
        return {str(one.parent.relative_to(self.folder)): one.read_text() for one in found}


@pytest.mark.parametrize(
    ("fails", "copies"), [("", False), ("--exchange", False), ("--exchange", True)]
)
def test_data_are_exchanged_whole(exchange: Exchange, fails: str, copies: bool) -> None:
    assert exchange.run("data-2", "data-3", fails=fails, copies=copies) == 0
    assert exchange.holds == {
        "data/17": "restored",
        "restored/17": "data",
        "restored/17-2": "data-2",
        "restored/17-3": "data-3",
    }
    assert (exchange.folder / "restored" / "swapped.json").exists()


@pytest.mark.parametrize("copies", [False, True])
def test_an_exchange_that_fails_leaves_all_as_it_was(exchange: Exchange, copies: bool) -> None:
    before = exchange.holds
    program = '--exchange*|*"17.restored "*"data/17"'
    for fails in (program, '--exchange*|*"data/17.before"', '"17-3"'):
        assert exchange.run("data-2", "data-3", fails=fails, copies=copies) == 1
        assert exchange.holds == before
        assert (exchange.folder / "restored" / "restored.json").exists()


def test_data_are_put_where_there_are_none(exchange: Exchange) -> None:
    (exchange.folder / "data" / "17" / "of").unlink()
    (exchange.folder / "data" / "17").rmdir()
    assert exchange.run() == 0
    assert exchange.holds == {"data/17": "restored", "data-2/17": "data-2", "data-3/17": "data-3"}


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


def project_of(docker: Docker) -> str:
    """Return the project whose volumes the scripts name."""
    (docker.folder / "given").mkdir()
    ran = docker.run("backup.sh", "key")
    return ran.stderr.split("the volume ")[1].split("_secrets")[0]


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
