"""swarm.sh apply: which services are updated, in what way, and what a failed update comes to."""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import PurePath

import pytest

from infra.swarm.rules import Facts
from tests.command import REPOSITORY
from tests.unit.ops.fake_docker import Docker, Ran

PROJECT = os.environ.get("COMPOSE_PROJECT_NAME", "sluice")
DIGEST = '{{index .Spec.Labels "sluice.definition"}}'
STATE = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}"
WANTED, OTHER = "wanted", "other"


@dataclass
class Swarm:
    """A stack of one service a phase, which runs as wanted where a test says nothing else."""

    docker: Docker
    phases: tuple[str, ...]
    script: str = "swarm.sh"

    def has(self, service: str, digest: str, *, after: str = "") -> None:
        """Have a service run by this definition."""
        command = f"service inspect --format {DIGEST} {PROJECT}_{service}"
        self.docker.answer(command, stdout=f"{digest}\n", after=after)

    def runs(self, service: str, counts: str, *, hangs: float = 0.0, after: str = "") -> None:
        """Have so many tasks of a service run, of as many as there are to be."""
        command, stdout = (
            f"service ls --filter name={PROJECT}_{service}",
            f"{PROJECT}_{service} {counts}\n",
        )
        self.docker.answer(command, stdout=stdout, hangs=hangs, after=after)

    def updates(self, service: str, state: str, *, hangs: float = 0.0, after: str = "") -> None:
        """Have Swarm say this of a service's update."""
        command = f"{STATE} {PROJECT}_{service}"
        self.docker.answer(command, stdout=f"{state}\n", hangs=hangs, after=after or "info")

    def changed(self, service: str) -> None:
        """Have a service run by another definition until its phase is deployed."""
        self.has(service, OTHER, after="-m infra.swarm check")
        self.has(service, WANTED, after=f"/{self.phases.index(service) + 1:02}.json")

    def apply(self) -> Ran:
        for service in self.phases:
            self.has(service, WANTED)
            self.runs(service, "2/2")
        self.docker.answer("-m infra.swarm bundle", stdout=self._bundle())
        return self.docker.run(self.script, "apply")

    def _bundle(self) -> str:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for number, service in enumerate(self.phases, 1):
                content = f"{service} {WANTED}\n".encode()
                entry = tarfile.TarInfo(f"{number:02}.definitions")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return made.getvalue().decode("ascii")


def deployed(ran: Ran) -> list[str]:
    """Return the stack files that were deployed, in that order."""
    return [
        PurePath(call.split("--compose-file ")[1].split()[0]).name
        for call in ran.calls
        if call.startswith("stack deploy")
    ]


@pytest.fixture
def swarm(docker: Docker) -> Swarm:
    docker.answer("-m infra.swarm check", stdout="upwards\n")
    docker.answer("{{.Spec.Mode.Replicated.Replicas}}", stdout="2\n")
    docker.answer(STATE, stdout="completed\n")
    docker.answer("restart postgres", stdout="host: restart-postgres\n")
    return Swarm(docker, ("postgres", "pgbouncer", "api"))


@pytest.fixture
def hasty(swarm: Swarm) -> Swarm:
    """Return it with one second for each replica, and a word about it each second."""
    copies = swarm.docker.folder / "clone" / "infra" / "host"
    copies.mkdir(parents=True)
    for name in ("swarm.sh", "common.sh"):
        text = (REPOSITORY / "infra" / "host" / name).read_text()
        for seconds in ("SERVICE_SECONDS=300", "TELL_SECONDS=60"):
            text = text.replace(seconds, f"{seconds.split('=')[0]}=1")
        (copies / name).write_text(text)
        (copies / name).chmod(0o755)
    (copies.parents[1] / "compose.yaml").write_text(f"name: {PROJECT}\n")
    swarm.script = str(copies / "swarm.sh")
    return swarm


def test_only_what_changed_is_updated(swarm: Swarm) -> None:
    swarm.changed("api")
    ran = swarm.apply()
    assert ran.exit_code == 0, ran.stderr
    assert deployed(ran) == ["03.json", "stack.json"]
    assert any("migrate" in call for call in ran.calls)


@pytest.mark.parametrize(
    ("network", "encrypted"),
    [("", None), ('{"vxlanid_list": "1"}', False), ('{"encrypted": ""}', True)],
)
def test_what_is_judged_is_one_document(swarm: Swarm, network: str, encrypted: bool | None) -> None:
    state = {"LocalNodeState": "active", "ControlAvailable": True}
    node = {
        "ID": "one",
        "Spec": {"Role": "manager", "Availability": "active"},
        "Description": {"Hostname": "node-1", "Resources": {}},
        "Status": {"State": "ready"},
    }
    swarm.docker.answer("{{json .Swarm}}", stdout=json.dumps(state))
    swarm.docker.answer("{{.Swarm.ControlAvailable}}", stdout="true\n")
    swarm.docker.answer("node inspect", stdout=json.dumps([node]))
    swarm.docker.answer("network ls", stdout="id\n" if network else "")
    swarm.docker.answer("network inspect", stdout=network)
    assert swarm.apply().exit_code == 0
    document = json.loads((swarm.docker.folder / "for-check").read_text())
    facts = Facts.parse(document, has_secrets=True)
    assert [one.name for one in facts.nodes] == ["node-1"]
    assert facts.encrypted is encrypted


def test_as_many_pgbouncers_are_paused_as_serve_now(swarm: Swarm) -> None:
    (swarm.docker.folder / "stack.env").write_text("PGBOUNCER_REPLICAS=3\n")
    swarm.changed("postgres")
    swarm.changed("pgbouncer")
    ran = swarm.apply()
    assert ran.exit_code == 0, ran.stderr
    assert any(call.endswith("ops restart postgres --serving 2") for call in ran.calls)
    assert deployed(ran) == ["01.json", "02.json", "stack.json"]


@pytest.mark.parametrize("service", ["postgres", "pgbouncer"])
@pytest.mark.parametrize("state", ["rollback_completed", "completed"])
def test_what_swarm_has_taken_back_is_not_deployed_again(
    swarm: Swarm, service: str, state: str
) -> None:
    swarm.has(service, OTHER, after="-m infra.swarm check")
    swarm.docker.answer(STATE, stdout=f"{state}\n")
    swarm.docker.answer("service ps", stdout=f"{service}.1 on node-1: Failed task: exit (1)\n")
    ran = swarm.apply()
    assert ran.exit_code == 1
    assert "stack.json" not in deployed(ran)
    assert f"{service}.1 on node-1: Failed task: exit (1)" in ran.stderr
    assert "what ran before runs" in ran.stderr
    assert "to finish: make swarm-apply" in ran.stderr


def test_a_first_start_that_ended_at_postgres_goes_on_without_a_pause(swarm: Swarm) -> None:
    swarm.changed("postgres")
    swarm.changed("pgbouncer")
    missing = f"service inspect {PROJECT}_pgbouncer"
    swarm.docker.answer(missing, code=1, stderr="no such service\n")
    ran = swarm.apply()
    assert ran.exit_code == 0, ran.stderr
    assert deployed(ran) == ["01.json", "02.json", "stack.json"]
    assert not any("ops restart" in call for call in ran.calls)


def test_the_start_of_a_server_takes_as_long_as_it_takes(hasty: Swarm) -> None:
    hasty.changed("postgres")
    # It starts for longer than an update may take; then it runs.
    hasty.runs("postgres", "0/1", after="--compose-file")
    hasty.runs("postgres", "1/1", after="alone: service ps")
    hasty.docker.answer("service ps --filter", stdout="Starting 2 hours ago\n", hangs=1.5)
    ran = hasty.apply()
    assert ran.exit_code == 0, ran.stderr
    assert (
        "postgres is starting; the copy of a standby and a recovery take their time" in ran.stderr
    )


def test_a_server_that_does_not_even_start_is_given_up(hasty: Swarm) -> None:
    hasty.changed("postgres")
    hasty.runs("postgres", "0/1", after="--compose-file")
    hasty.docker.answer("service ps", stdout="postgres.1: Pending no suitable node\n")
    ran = hasty.apply()
    assert ran.exit_code == 1
    assert "postgres: 0/1 tasks run after" in ran.stderr
    assert "Pending no suitable node" in ran.stderr


def test_replicas_that_are_updated_one_after_the_other_have_the_time_of_all(hasty: Swarm) -> None:
    hasty.changed("api")
    hasty.runs("api", "1/3", hangs=1.5, after="--compose-file")
    hasty.runs("api", "3/3", after="alone: service ls")
    ran = hasty.apply()
    assert ran.exit_code == 0, ran.stderr


@pytest.mark.parametrize("state", ["updating", "rollback_started"])
@pytest.mark.parametrize("ends", [True, False])
def test_an_update_that_is_under_way_ends_before_another_one_begins(
    hasty: Swarm, state: str, ends: bool
) -> None:
    listed = f"service ls --filter label=com.docker.stack.namespace={PROJECT} --format"
    hasty.docker.answer(listed, stdout=f"{PROJECT}_api\n{PROJECT}_pgbouncer\n")
    hasty.updates("api", state, hangs=0.1)
    if ends:
        hasty.updates("api", "completed", after="alone: service inspect")
    ran = hasty.apply()
    assert ran.exit_code == 0, ran.stderr
    assert "an update of api is under way" in ran.stderr
    assert "an update of pgbouncer" not in ran.stderr
    assert ("it is not over; going on all the same" in ran.stderr) is not ends
    asked = [number for number, call in enumerate(ran.calls) if STATE in call]
    (compiled,) = [
        number for number, call in enumerate(ran.calls) if call.endswith("--no-deps config")
    ]
    assert max(asked) < compiled
