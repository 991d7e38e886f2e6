"""operate.sh and the commands that it runs: documents, steps, signals; what restarts nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.fix_stack import poll
from tests.unit.infra.support import REPOSITORY
from tests.unit.ops.fake_docker import Docker


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


@pytest.mark.parametrize("code", [0, 2, 3])
def test_compiling_before_a_start_is_silent_unless_it_fails(docker: Docker, code: int) -> None:
    docker.answer("ps --all --quiet config", stdout="c1\n")
    docker.answer("start --attach c1", code=code, stdout="refused: apply is under way\n")
    ran = docker.run("compile")
    assert ran.exit_code == code
    assert ("apply is under way" in ran.stderr) is (code != 0)


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


@pytest.mark.parametrize("operation", ["rotate-passwords", "rotate-certificates"])
def test_secrets_are_given_in_a_directory_that_is_there(
    docker: Docker, tmp_path: Path, operation: str
) -> None:
    ran = docker.run(operation, "--from", str(tmp_path / "typo"))
    assert ran.exit_code == 2
    assert f"FROM={tmp_path / 'typo'}: no such directory" in ran.stderr
    assert not any(" run " in call for call in ran.calls)
    command = operation.replace("-", " ")
    docker.answer(f"{command} --from /given")
    ran = docker.run(operation, "--from", str(tmp_path))
    assert ran.exit_code == 0, ran.stderr
    (call,) = [one for one in ran.calls if command in one]
    assert f"--volume {tmp_path}:/given:ro" in call


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
