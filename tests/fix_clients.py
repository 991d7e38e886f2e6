"""Applications behind the path: their files, secrets and containers, and the drivers' image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container

from tests import command
from tests.command import Done
from tests.fix_ops import Commands, EnvDir
from tests.fix_secrets import Secrets
from tests.fix_sql import Sql
from tests.fix_stack import REPOSITORY, Stack

CLIENTS = REPOSITORY / "tests" / "clients"
BUILD_SECONDS = 600


class Application:
    """An application: its file in an env directory, its secrets, its processes."""

    def __init__(self, name: str, stack: Stack, ops: Commands, env: EnvDir, secrets: Path) -> None:
        self.name = name
        self._stack, self._ops, self._env = stack, ops, env
        self._secrets = secrets
        self.file = env.path / "clients" / f"{name}.env"
        self._containers: list[Container] = []

    def set(self, **settings: object) -> None:
        """Write its file."""
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def apply(self) -> Done:
        """Apply the env directory, as make does."""
        return self._ops.script("apply", env=self._env)

    def operate(self, name: str) -> Done:
        """Run another operation of operate.sh with the env directory."""
        return self._ops.script(name, env=self._env)

    def take_secrets(self) -> None:
        """Have its secrets written, as an operator does."""
        done = self._ops.script("client-url", "--to", str(self._secrets), self.name, env=self._env)
        assert done.exit_code == 0, done.text

    def secret(self, name: str) -> Path:
        """Return a file of its secrets."""
        return self._secrets / name

    def variables(self, *, owner: bool = False) -> dict[str, str]:
        """Return libpq's variables, of the application or of its database's owner."""
        done = self._ops.script("client-url", "--json", self.name, env=self._env)
        assert done.exit_code == 0, done.text
        found = done.document["migrations"] if owner else done.document
        return dict(found["libpq"])

    def start(
        self,
        image: str,
        words: list[str],
        *,
        app: Path,
        environment: dict[str, str] | None = None,
        network: str = "pool",
        writable: dict[Path, str] | None = None,
    ) -> Container:
        """Start a process of it, with `app` in /app; it is the owner of the files of its secrets.

        `writable` are directories by where they are in the container.
        """
        volumes = {
            str(self._secrets): {"bind": "/run/secrets", "mode": "ro"},
            str(app): {"bind": "/app", "mode": "ro"},
        }
        volumes |= {
            str(path): {"bind": place, "mode": "rw"} for path, place in (writable or {}).items()
        }
        container = self._stack.client.containers.run(
            image,
            words,
            user="0:0",
            network=f"{self._stack.project}_{network}",
            volumes=volumes,
            environment=environment or {},
            detach=True,
        )
        self._containers.append(container)
        return container

    def remove(self, sql: Sql, secrets: Secrets) -> None:
        """Take it away, with its database and the passwords that are kept for its return."""
        for container in self._containers:
            container.remove(force=True)
        self.file.unlink(missing_ok=True)
        done = self.apply()
        assert done.exit_code == 0, done.text
        sql.rows(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        sql.rows(f"DROP ROLE IF EXISTS {self.name}, {self.name}_owner")
        secrets.sh('rm -f /secrets/"$1"[._]* /out/ops/clients/"$1"[._]*', self.name)


MakeApplication = Callable[[str], Application]


def printed(container: Container, *, seconds: float) -> str:
    """Return what a process has printed, once it has ended without an error."""
    ended = container.wait(timeout=seconds)
    both = container.logs(stdout=True, stderr=True).decode()
    assert ended["StatusCode"] == 0, both
    return str(container.logs(stdout=True, stderr=False).decode())


@pytest.fixture
def make_application(
    stack: Stack, ops: Commands, env: EnvDir, sql: Sql, secrets: Secrets, tmp_path: Path
) -> Iterator[MakeApplication]:
    """Return a maker of applications, none of which is there yet; they go after the test."""
    made: list[Application] = []

    def make(name: str) -> Application:
        made.append(Application(name, stack, ops, env, tmp_path / f"{name}-secrets"))
        return made[-1]

    yield make
    for one in made:
        one.remove(sql, secrets)


@pytest.fixture(scope="session")
def drivers_image() -> str:
    """Return the image with the drivers of tests/clients, built where it is not there."""
    image = f"sluice-clients:{os.environ.get('SLUICE_IMAGE_TAG', 'latest')}"
    bundle = os.environ.get("CA_BUNDLE", str(REPOSITORY / "infra" / "host" / "no-extra-ca.pem"))
    base = os.environ.get("BASE_IMAGE", "debian:trixie-slim")
    words = ("--build-arg", f"BASE_IMAGE={base}", "--secret", f"id=ca-bundle,src={bundle}")
    built = command.run(
        "docker", "build", "--quiet", *words, "--tag", image, str(CLIENTS), seconds=BUILD_SECONDS
    )
    assert built.exit_code == 0, built.text
    return image
