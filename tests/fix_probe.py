"""One-off containers of the app image: code that runs where the app runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker.errors import ContainerError

from tests.fix_stack import Stack

PROBES = Path(__file__).parent / "stack" / "probes"
Probe = Callable[..., Any]


@pytest.fixture(scope="session")
def probe(stack: Stack) -> Probe:
    """Return a function that runs a script of ``probes/`` on a network of the stack.

    The script gets ``arguments`` as text, sees the service's configuration and prints one
    JSON document, which is returned.
    """

    def run(
        script: str, *arguments: str, service: str = "api", network: str = "pool", user: str = ""
    ) -> Any:
        container = stack.container(service)
        volumes = {f"{stack.project}_app-config": {"bind": "/etc/sluice", "mode": "ro"}}
        try:
            output = stack.client.containers.run(
                container.attrs["Config"]["Image"],
                ["python", "-c", (PROBES / script).read_text(encoding="utf-8"), *arguments],
                user=user or container.attrs["Config"]["User"],
                network=f"{stack.project}_{network}",
                volumes=volumes,
                environment={"SLUICE_SETTINGS": f"/etc/sluice/{service}.json"},
                read_only=True,
                cap_drop=["ALL"],
                remove=True,
                stdout=True,
                stderr=False,
            )
        except ContainerError as error:
            raise AssertionError(f"{script}: {error.stderr!r}") from error
        return json.loads(output.decode().strip().splitlines()[-1])

    return run
