"""The running deployment: its containers, found through Docker's API by their compose labels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import docker
import pytest
import testinfra
from docker.models.containers import Container
from testinfra.host import Host

from infra.config import envfile
from infra.config.envfile import assign
from tests import command
from tests.command import Done

REPOSITORY = command.REPOSITORY
ENV_DIR = Path(os.environ.get("SLUICE_ENV_DIR", REPOSITORY / "infra" / "env"))
ENV_FILE = ENV_DIR / "stack.env"
TIERS = ("postgres", "pgbouncer", "api", "worker")

T = TypeVar("T")


def poll(condition: Callable[[], T], *, seconds: float, what: str, every: float = 0.1) -> T:
    """Return the first truthy value of ``condition``; fail naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what} (last: {value!r})")
        time.sleep(every)


def during(seconds: float) -> Iterator[None]:
    """Yield as often as the loop comes round within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def on_host(script: str) -> list[str]:
    """Return the words that run a script of infra/host, or an operation of its operate.sh."""
    folder = REPOSITORY / "infra" / "host"
    own = folder / script
    return [str(own)] if script.endswith(".sh") else [str(folder / "operate.sh"), script]


def read_settings(path: Path = ENV_FILE) -> dict[str, str]:
    """Return every setting of an env file as text, those it leaves out with what they come to."""
    values = assign(envfile.read(path, name=path.name)).values
    return {name: str(value) for name, value in values.as_dict().items()}


def run_in(container: Container, words: list[str]) -> tuple[int, str]:
    """Run a command in a container; return its exit code and what it printed."""
    # The command line client, not the SDK: on a busy machine the SDK's stream can end before
    # the command has, with no output and no exit code.
    done = command.run("docker", "exec", str(container.name), *words, merged=True, seconds=60)
    return done.exit_code, done.stdout


_SCRAPE = (
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8001, timeout=10); "
    "c.request('GET', '/metrics'); print(c.getresponse().read().decode())"
)


def metrics_of(container: Container) -> str:
    """Return what a scrape of an api or worker container gives, from its port inside.

    Raises:
        ConnectionError: there was no answer.

    """
    code, text = run_in(container, ["python", "-c", _SCRAPE])
    if code != 0:
        raise ConnectionError(text)
    return text


@dataclass(frozen=True)
class Stack:
    """The compose project that the tests look at."""

    client: docker.DockerClient
    project: str

    def containers(self, service: str, *, all_states: bool = False) -> list[Container]:
        """Return the service's containers in the order of their replica number."""
        found = self.client.containers.list(
            all=all_states,
            filters={
                "label": [
                    f"com.docker.compose.project={self.project}",
                    f"com.docker.compose.service={service}",
                    "com.docker.compose.oneoff=False",
                ]
            },
        )
        return sorted(found, key=lambda one: str(one.name))

    def container(self, service: str) -> Container:
        """Return the service's first running container."""
        found = self.containers(service)
        assert found, f"no running container of {service}; start the stack with: make up"
        return found[0]

    def host(self, container: Container) -> Host:
        """Return testinfra's view of the inside of a container."""
        return testinfra.get_host(f"docker://{container.name}")

    def health(self, container: Container) -> str:
        """Return Docker's health verdict for a container, read anew."""
        container.reload()
        return str(container.attrs["State"].get("Health", {}).get("Status", "none"))

    def wait_healthy(self, *, seconds: float = 60) -> None:
        """Return when every container of every tier is healthy."""

        def all_healthy() -> bool:
            running = [one for tier in TIERS for one in self.containers(tier)]
            return bool(running) and all(self.health(one) == "healthy" for one in running)

        poll(all_healthy, seconds=seconds, what="every tier healthy")

    @property
    def compose_command(self) -> tuple[str, ...]:
        """Return ``docker compose`` for this project and its env file."""
        return ("docker", "compose", "--env-file", str(ENV_FILE), "-p", self.project)

    def compose(
        self, *arguments: str, env: dict[str, str] | None = None, timeout: float = 180
    ) -> Done:
        """Run ``docker compose`` in the repository, as an operator does."""
        return command.run(*self.compose_command, *arguments, env=env, seconds=timeout)


@pytest.fixture(scope="session")
def settings() -> dict[str, str]:
    """Return the settings that the running stack was started with."""
    return read_settings()


@pytest.fixture(scope="session")
def stack() -> Stack:
    """Return the running stack; it fails, never skips, where there is none."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.fail(f"Docker does not answer ({error}); start the stack with: make up")
    running = Stack(client, os.environ.get("COMPOSE_PROJECT_NAME", "sluice"))
    running.container("postgres")
    running.wait_healthy()
    return running
