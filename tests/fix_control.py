"""The control plane as operators reach it: from a container on the control network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from infra.config import envfile
from tests.fix_stack import ENV_FILE, REPOSITORY, Stack, run_in

Answer = dict[str, Any]
# Method, host, path and Authorization header.
Call = tuple[str, str, str, str]
Recompile = Callable[..., None]


class Operator:
    """Asks every process; every call is bounded in time."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def ask(self, what: str, *services: str) -> list[Answer]:
        """Return the answer of every process of the services, of all where none is given."""
        return list(self._run("control", what, *services))

    def states(self, *services: str) -> list[dict[str, Any]]:
        """Return the state of every process; fail where one gives none."""
        answers = self.ask("state", *services)
        assert all("state" in one for one in answers), answers
        return [one["state"] for one in answers]

    def call(self, *calls: Call) -> list[Answer]:
        """Make raw calls; return the status and body of each."""
        return list(self._run("control_call", json.dumps(calls)))

    def read(self, path: str) -> str:
        """Return the text of a file that operators have."""
        code, text = run_in(self.container, ["cat", path])
        assert code == 0, text
        return text

    def replace(self, name: str, text: str, uid: int) -> None:
        """Put a file into the app's configuration, owned as the compiler would."""
        script = (
            "import os, sys; name, text, uid = sys.argv[1:];"
            "new = open(name + '.test', 'w'); new.write(text); new.close();"
            "os.chmod(name + '.test', 0o400); os.chown(name + '.test', int(uid), int(uid));"
            "os.replace(name + '.test', name)"
        )
        command = ["python", "-c", script, f"/out/app/{name}", text, str(uid)]
        code, output = run_in(self.container, command)
        assert code == 0, output

    def _run(self, module: str, *arguments: str) -> Any:
        command = ["python", "-m", f"tests.stack.probes.{module}", *arguments]
        code, output = run_in(self.container, command)
        assert code == 0, output
        return json.loads(output.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def operator(stack: Stack) -> Iterator[Operator]:
    """Return an operator on the control network, and on no other."""
    (config,) = stack.containers("config", all_states=True)
    volumes = {
        f"{stack.project}_ops-config": {"bind": "/etc/sluice/ops", "mode": "ro"},
        f"{stack.project}_app-config": {"bind": "/out/app", "mode": "rw"},
        str(REPOSITORY / "tests"): {"bind": "/opt/sluice/tests", "mode": "ro"},
    }
    container = stack.client.containers.run(
        config.attrs["Config"]["Image"],
        entrypoint=["sleep", "infinity"],
        command=[],
        user="0:0",
        network=f"{stack.project}_control",
        volumes=volumes,
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
        detach=True,
    )
    try:
        yield Operator(container)
    finally:
        container.remove(force=True)


@pytest.fixture
def recompile(stack: Stack, operator: Operator, tmp_path: Path) -> Iterator[Recompile]:
    """Return a function that compiles the env file with changed settings.

    Afterwards the env file itself is compiled and reloaded everywhere.
    """

    def compiled(env_dir: Path) -> None:
        environment = {"SLUICE_ENV_DIR": str(env_dir)}
        arguments = ("run", "--rm", "--no-deps", "--no-TTY", "config")
        result = stack.compose(*arguments, env=environment)
        assert result.returncode == 0, result.stderr

    def change(**settings: object) -> None:
        copy = tmp_path / "env"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ENV_FILE.parent, copy)
        text = envfile.edit(ENV_FILE.read_text(encoding="utf-8"), settings)
        (copy / "stack.env").write_text(text, encoding="utf-8")
        compiled(copy)

    yield change
    compiled(ENV_FILE.parent)
    assert all("state" in one for one in operator.ask("reload"))
