"""Three Docker hosts on this machine, joined into one swarm, and the stack on them.

Each is a privileged container that runs dockerd, on a network of its own, bounded in memory and
processors. A temporary directory holds their sockets, a Docker context for each, and the env file;
it is mounted at the same path in the first, through which everything is done.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.command import REPOSITORY, Done, run
from tests.fix_stack import poll

NODES = ("node-1", "node-2", "node-3")
NAME = os.environ.get("COMPOSE_PROJECT_NAME", "sluice") + "-bench"
IMAGE = f"{NAME}-node"
STACK = "sluice"
TAG = os.environ.get("SLUICE_IMAGE_TAG", "latest")
BUILT = ("app", "backup", "etcd", "gateway", "infra", "pgbouncer", "postgres")
# A node keeps its address when it comes back, as a machine does.
SUBNET = "10.231.17."
# Of one node. The stack's own limits are above it in sum; nothing of it comes near them here.
MEMORY = "3g"
API_PORT = 8080
# What the bench's stack.env has otherwise than the default one.
CHANGES = {
    "API_BIND_ADDRESS": "0.0.0.0",  # of a node, which is a container
    "API_REPLICAS": "3",
    "API_MEMORY_MB": "256",
    "BACKUPS": "off",
    "PGBOUNCER_MAX_CLIENT_CONNECTIONS": "400",
    "PGBOUNCER_OPEN_FILES": "2048",
    "POSTGRES_INSTANCES": "3",
    "POSTGRES_MEMORY_MB": "512",
    "POSTGRES_CPUS": "1.0",
    "WORKER_REPLICAS": "3",
    # This machine's kernel may be one without IPsec.
    "SWARM_ENCRYPTED": "no",
}


def docker(*words: str, seconds: float = 120) -> Done:
    """Run the client against this machine's daemon; fail when it fails."""
    return _good(run("docker", *words, seconds=seconds))


def _good(done: Done) -> Done:
    assert done.exit_code == 0, f"{done.args}: {done.text}"
    return done


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows that psql printed."""
    return list(csv.DictReader(io.StringIO(text)))


class Bench:
    """Made at the beginning of the block and removed at its end, whatever happens in it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        self.env_dir = self.directory / "env"
        self._down: set[str] = set()

    def __enter__(self) -> Self:
        """Start the hosts and join them."""
        try:
            # What a run has left that was killed.
            self._remove_docker()
            self._start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove all of it."""
        self.remove()

    def remove(self) -> None:
        """Remove hosts, volumes, network, image and directory; what is not there is no fault."""
        self._remove_docker()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remove_docker(self) -> None:
        for node in NODES:
            run("docker", "rm", "--force", "--volumes", f"{NAME}-{node}")
            run("docker", "volume", "rm", "--force", f"{NAME}-{node}")
        run("docker", "network", "rm", NAME)
        run("docker", "image", "rm", "--force", IMAGE)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which every command is about the bench, as an operator's."""
        return {
            "DOCKER_HOST": self._socket(NODES[0]),
            "DOCKER_CONFIG": str(self.directory / "docker"),
            "SLUICE_ENV_DIR": str(self.env_dir),
            "COMPOSE_PROJECT_NAME": STACK,
            "COMPOSE_PROFILES": "",
        }

    def _socket(self, node: str) -> str:
        return f"unix://{self.directory}/{node}.sock"

    @property
    def manager(self) -> str:
        """Return a node that is up; each is a manager."""
        return next(one for one in NODES if one not in self._down)

    def on(self, node: str, *words: str, seconds: float = 120, check: bool = True) -> Done:
        """Run the client against a node's daemon; unless told otherwise fail when it fails."""
        done = run("docker", "--host", self._socket(node), *words, seconds=seconds)
        return _good(done) if check else done

    def make(self, *words: str, node: str = NODES[0], seconds: float = 900) -> Done:
        """Run make as an operator of this manager does."""
        environment = self.environment | {"DOCKER_HOST": self._socket(node)}
        return run("make", "--no-print-directory", *words, env=environment, seconds=seconds)

    def address(self, node: str) -> str:
        """Return where a node is reached from this machine."""
        return f"{SUBNET}{NODES.index(node) + 11}"

    def url(self, node: str) -> str:
        """Return the api at a node."""
        return f"http://{self.address(node)}:{API_PORT}"

    def kill(self, node: str) -> None:
        """Lose a node: everything on it is gone at once."""
        self._down.add(node)
        docker("kill", f"{NAME}-{node}")

    def start(self, node: str) -> None:
        """Switch a node on again, and wait until its daemon answers."""
        docker("start", f"{NAME}-{node}")
        self._await_daemon(node)
        self._down.discard(node)

    def nodes(self) -> dict[str, str]:
        """Return the state of each node as the swarm sees it."""
        listed = self.on(self.manager, "node", "ls", "--format", "{{.Hostname}} {{.Status}}").stdout
        return dict(line.split(" ", 1) for line in listed.splitlines())

    def services(self) -> dict[str, str]:
        """Return running and wanted tasks of each service, as 2/3."""
        listed = self.on(
            self.manager, "service", "ls", "--format", "{{.Name}} {{.Replicas}}"
        ).stdout
        return dict(line.split(" ", 1) for line in listed.splitlines())

    def wait_whole(self, *, seconds: float = 180) -> None:
        """Return when every node is ready and every service has all its tasks."""

        def whole() -> bool:
            counts = [one.split("/") for one in self.services().values()]
            ready = set(self.nodes().values()) == {"Ready"}
            return ready and all(running == wanted for running, wanted in counts)

        poll(whole, seconds=seconds, what="all services on all nodes", every=1)

    def container(self, node: str, service: str, *, check: bool = True) -> str:
        """Return the id of a service's container on a node; empty where it has none."""
        labels = f"label=com.docker.swarm.service.name={STACK}_{service}"
        done = self.on(node, "ps", "--quiet", "--filter", labels, check=check)
        return done.stdout.partition("\n")[0]

    def _start(self) -> None:
        self._write_env()
        docker("build", "--quiet", "--tag", IMAGE, str(REPOSITORY / "tests" / "swarm"), seconds=600)
        docker("network", "create", "--subnet", f"{SUBNET}0/24", NAME)
        for node in NODES:
            self._start_node(node)
        for node in NODES:
            self._await_daemon(node)
            socket = f"host={self._socket(node)}"
            config = {"DOCKER_CONFIG": str(self.directory / "docker")}
            _good(run("docker", "context", "create", node, "--docker", socket, env=config))
        self._join()

    def _start_node(self, node: str) -> None:
        docker(
            *("run", "--detach", "--name", f"{NAME}-{node}", "--hostname", node, "--privileged"),
            *("--network", NAME, "--ip", self.address(node), "--tmpfs", "/run"),
            *("--volume", f"{NAME}-{node}:/var/lib/docker"),
            *("--volume", f"{self.directory}:{self.directory}", "--memory", MEMORY, "--cpus", "2"),
            *(IMAGE, "--host", self._socket(node)),
        )

    def _await_daemon(self, node: str) -> None:
        poll(
            lambda: self.on(node, "info", seconds=30, check=False).exit_code == 0,
            seconds=60,
            what=f"dockerd of {node} answers",
        )

    def _join(self) -> None:
        self.on(NODES[0], "swarm", "init", "--advertise-addr", self.address(NODES[0]))
        token = self.on(NODES[0], "swarm", "join-token", "--quiet", "manager").stdout.strip()
        for node in NODES[1:]:
            manager = f"{self.address(NODES[0])}:2377"
            self.on(node, "swarm", "join", "--token", token, manager)
        for number, node in enumerate(NODES, 1):
            for label in ("postgres", "etcd"):
                self.on(NODES[0], "node", "update", "--label-add", f"sluice.{label}={number}", node)

    def _write_env(self) -> None:
        shutil.copytree(REPOSITORY / "infra" / "env", self.env_dir)
        self.change_env(CHANGES)

    def change_env(self, changes: dict[str, Any]) -> None:
        """Change settings of the bench's env file."""
        path = self.env_dir / "stack.env"
        lines = [one for one in path.read_text().splitlines() if one.split("=")[0] not in changes]
        lines += [f"{name}={value}" for name, value in changes.items()]
        path.write_text("\n".join(lines) + "\n")

    @contextmanager
    def changed(self, changes: dict[str, Any]) -> Iterator[None]:
        """Have settings changed in the env file for the block."""
        path = self.env_dir / "stack.env"
        before = path.read_text()
        self.change_env(changes)
        try:
            yield
        finally:
            path.write_text(before)

    def load_images(self) -> None:
        """Have the images of this machine on the first node, as if they had been built there."""
        archive = self.directory / "images.tar"
        images = [f"sluice-{one}:{TAG}" for one in BUILT]
        docker("save", "--output", str(archive), *images, seconds=600)
        try:
            self.on(NODES[0], "load", "--input", str(archive), seconds=600)
        finally:
            archive.unlink()

    def new_image(self, name: str) -> None:
        """Have another image under the tag on the first node, which does the same."""
        tag = f"sluice-{name}:{TAG}"
        made = self.on(NODES[0], "create", tag).stdout.strip()
        self.on(NODES[0], "commit", "--change", f"LABEL bench={made}", made, tag)
        self.on(NODES[0], "rm", made)

    def primary(self) -> str:
        """Return the node of the instance that takes writes; empty while there is none."""
        for node in NODES:
            if node not in self._down:
                done = self.psql(node, "SELECT pg_is_in_recovery() AS standby", check=False)
                if done.exit_code == 0 and read_csv(done.stdout)[0]["standby"] == "f":
                    return node
        return ""

    def psql(
        self, node: str, statement: str, *, database: str = "postgres", check: bool = True
    ) -> Done:
        """Run a statement as the superuser in the instance of a node."""
        container = self.container(node, f"postgres-{NODES.index(node) + 1}", check=check)
        words = ("psql", "--no-psqlrc", "--csv", "--set=ON_ERROR_STOP=1", f"--dbname={database}")
        return self.on(
            node, "exec", container or "none", *words, "--command", statement, check=check
        )
