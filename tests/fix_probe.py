"""One-off containers of the app image: code that runs where the app runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from docker.errors import ContainerError

from tests.fix_stack import REPOSITORY, Stack

Probe = Callable[..., Any]


@pytest.fixture(scope="session")
def probe(stack: Stack) -> Probe:
    """Return a function that runs a module of ``probes/`` on a network of the stack.

    The module gets ``arguments`` as text, sees the service's configuration and ends with one
    line of JSON, which is returned.
    """

    def run(
        module: str,
        *arguments: str,
        service: str = "api",
        network: str = "pool",
        environment: dict[str, str] | None = None,
    ) -> Any:
        (container, *_) = stack.containers(service, all_states=True)
        try:
            output = stack.client.containers.run(
                container.attrs["Config"]["Image"],
                ["python", "-m", f"tests.stack.probes.{module}", *arguments],
                user=container.attrs["Config"]["User"],
                network=f"{stack.project}_{network}",
                volumes={
                    f"{stack.project}_app-config": {"bind": "/etc/sluice", "mode": "ro"},
                    str(REPOSITORY / "tests"): {"bind": "/opt/sluice/tests", "mode": "ro"},
                },
                environment={
                    "SLUICE_SETTINGS": f"/etc/sluice/{service}.json",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **(environment or {}),
                },
                read_only=True,
                cap_drop=["ALL"],
                remove=True,
                stdout=True,
                stderr=False,
            )
        except ContainerError as error:
            raise AssertionError(f"{module}: {error.stderr!r}") from error
        # The last line: what the app logs goes to the same stream before it.
        return json.loads(output.splitlines()[-1])

    return run
