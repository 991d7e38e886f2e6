"""What watches the path, switched on beside it, and a receiver of its alerts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from docker.models.containers import Container

from tests import command
from tests.fix_ops import Commands, EnvDir
from tests.fix_stack import ENV_FILE, Stack

BUILD_SECONDS = 600
# The last has the image of another.
SERVICES = ("prometheus", "alertmanager", "postgres-exporter", "console", "pgbouncer-exporter")
# So that a window of sixty of them is a minute.
SCRAPE_SECONDS = 1
# Prints each notification on a line, in one write: they come at the same time, each in its thread.
RECEIVE = """
import http.server

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print(text + "\\n", end="", flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("", 8080), Receiver).serve_forever()
"""


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody has."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(frozen=True)
class Observers:
    """Prometheus and what its alerts have become, as their receiver was told."""

    prometheus: httpx.Client
    receiver: Container
    env: EnvDir

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        answer = self.prometheus.get("/api/v1/query", params={"query": expression})
        answer.raise_for_status()
        return list(answer.json()["data"]["result"])

    def value(self, expression: str) -> float | None:
        """Return the value of the single sample of a query; None where there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def targets(self, job: str) -> dict[str, str]:
        """Return the health of every target of a job, by its replica or address."""
        answer = self.prometheus.get("/api/v1/targets", params={"state": "active"})
        answer.raise_for_status()
        return {
            one["labels"].get("replica", one["labels"]["instance"]): one["health"]
            for one in answer.json()["data"]["activeTargets"]
            if one["labels"]["job"] == job
        }

    def notices(self) -> dict[tuple[str, str], str]:
        """Return the last status that the receiver was told, by alert and severity."""
        lines = self.receiver.logs(stdout=True, stderr=False).decode().splitlines()
        sent = [json.loads(line)["alerts"] for line in lines if line]
        last: dict[tuple[str, str], dict[str, str]] = {}
        for one in (alert for alerts in sent for alert in alerts):
            key = (one["labels"]["alertname"], one["labels"]["severity"])
            # Of several with the same name one that fires counts.
            last.setdefault(key, {})[one["fingerprint"]] = one["status"]
        return {
            key: "firing" if "firing" in found.values() else "resolved"
            for key, found in last.items()
        }


@pytest.fixture(scope="session")
def observability_images() -> None:
    """Build the images of the profile where they are not there, or not as the sources are."""
    compose = ("docker", "compose", "--env-file", str(ENV_FILE), "--profile", "observability")
    built = command.run(*compose, "build", "--quiet", *SERVICES[:-1], seconds=BUILD_SECONDS)
    assert built.exit_code == 0, built.text


@pytest.fixture(scope="module")
def observers(
    stack: Stack,
    ops: Commands,
    observability_images: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Observers]:
    """Switch the profile on as an operator does, and off again after the module's tests.

    With limits that a test reaches in time: a leak is half a second, a batch ends after 20 s, and
    a replica has one server connection for requests.
    """
    env = EnvDir(tmp_path_factory.mktemp("observed") / "env")
    prometheus, alertmanager, console = free_ports(3)
    name = f"{stack.project}-alert-receiver"
    env.set(
        COMPOSE_PROFILES="observability",
        PROMETHEUS_PORT=prometheus,
        ALERTMANAGER_PORT=alertmanager,
        CONSOLE_PORT=console,
        PROMETHEUS_SCRAPE_SECONDS=SCRAPE_SECONDS,
        ALERT_WEBHOOK_URL=f"http://{name}:8080/",
        API_POOL_LEAK_THRESHOLD_SECONDS="0.5",
        WORKER_BATCH_DEADLINE_SECONDS="20",
        PGBOUNCER_INTERACTIVE_POOL_SIZE=1,
        PGBOUNCER_INTERACTIVE_RESERVE_SIZE=0,
    )
    done = ops.script("apply", "--restart", env=env)
    assert done.exit_code == 0, done.text
    receiver = stack.client.containers.run(
        stack.container("api").attrs["Config"]["Image"],
        entrypoint=["python", "-c", RECEIVE],
        command=[],
        name=name,
        network=f"{stack.project}_observers",
        detach=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{prometheus}", timeout=10) as http:
            yield Observers(http, receiver, env)
    finally:
        receiver.remove(force=True)
        done = ops.script("apply", "--restart", env=env.reset())
        assert done.exit_code == 0, done.text
        # What was sent counts for hours, and windows reach back: the next run would begin with it.
        if ops.setting("COMPOSE_PROFILES") == "none":
            for kept in ("prometheus-data", "alertmanager-data"):
                stack.client.volumes.get(f"{stack.project}_{kept}").remove()
