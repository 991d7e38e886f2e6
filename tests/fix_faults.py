"""Faults done to the running stack, each undone whatever happens, and load to meet them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from docker.models.containers import Container

from tests.faults.load import Load
from tests.fix_stack import Stack, poll

MakeLoad = Callable[..., Load]


@contextmanager
def frozen(containers: list[Container]) -> Iterator[None]:
    """Freeze containers: their peers' connections stay open and nothing answers."""
    for container in containers:
        container.pause()
    try:
        yield
    finally:
        for container in containers:
            container.unpause()


@contextmanager
def killed(containers: list[Container]) -> Iterator[None]:
    """End containers by SIGKILL; start them again at the end of the block."""
    for container in containers:
        container.kill("SIGKILL")
    try:
        yield
    finally:
        for container in containers:
            container.start()


def hold(seconds: float) -> None:
    """Let a fault, or undisturbed load, last for a stated time: the time is the subject."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)


@pytest.fixture(scope="session")
def make_load(stack: Stack, settings: dict[str, str]) -> MakeLoad:
    """Return a maker of mixed loads on the published port."""

    def make(**changes: int | float | dict[str, int]) -> Load:
        return Load(url=f"http://127.0.0.1:{settings['API_PORT']}", **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def deadline_seconds(settings: dict[str, str]) -> float:
    """Return the running request deadline in seconds."""
    return float(settings["API_REQUEST_DEADLINE_SECONDS"])


@pytest.fixture
def whole_again(stack: Stack) -> Iterator[None]:
    """After the test, wait until every tier is healthy again."""
    yield
    stack.wait_healthy(seconds=120)


def wait_for_traffic(load: Load, count: int = 50) -> None:
    """Return once the load has had that many good answers."""
    poll(
        lambda: sum(200 <= one.status < 300 for one in load.of()) >= count,
        seconds=30,
        what=f"{count} answered requests",
    )
