"""The bench takes minutes and gigabytes, so its tests run only where they are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm.bench import Bench

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these tests to `pytest tests/swarm`; no other run collects them."""
    named = [Path(one.split("::")[0]).resolve() for one in config.args]
    return None if any(HERE in (one, *one.parents) for one in named) else True


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Return three hosts with the stack deployed, through the first of them."""
    with Bench() as hosts:
        hosts.load_images()
        for step in ("swarm-images", "swarm-apply"):
            done = hosts.make(step)
            assert done.exit_code == 0, done.text
        hosts.wait_whole()
        yield hosts
