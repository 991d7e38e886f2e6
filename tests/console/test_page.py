"""The console's page in a browser: what it shows, at every size, and within seconds of a fault."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fix_console import Page
from tests.fix_faults import MakeLoad, frozen, killed, wait_for_traffic
from tests.fix_ops import Commands, EnvDir
from tests.fix_stack import Stack, poll
from tests.ops.path_faults import SMALL_POOL

# The browser is an image of several hundred megabytes.
pytestmark = pytest.mark.slow

SIZES = [(1400, 900), (390, 844), (2560, 1440)]
Note = Callable[[str, Any], None]


@pytest.fixture
def healthy_again(stack: Stack) -> Any:
    """After the test, wait until every tier is healthy."""
    yield
    stack.wait_healthy(seconds=120)


def shown(page: Page, tier: str, state: str, words: str, note: Note) -> None:
    """Wait until a tier is shown in a state and the sentence has these words; note the time."""
    began = time.monotonic()
    poll(lambda: page.state(f"#{tier}") == state, seconds=60, what=f"{tier} is shown as {state}")
    note("picture_seconds", round(time.monotonic() - began, 1))
    poll(
        lambda: words in page.text("#sentence"),
        seconds=60,
        what=f"the sentence says {words!r}",
    )
    note("sentence_seconds", round(time.monotonic() - began, 1))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_page_fits_its_screen_and_asks_nobody_else(
    page: Page, size: tuple[int, int], dark: bool, tmp_path: Path
) -> None:
    page.look(*size, dark=dark)
    poll(
        lambda: page.run("return document.querySelectorAll('canvas').length") == 4,
        seconds=60,
        what="four charts",
    )
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    tiers = [f"#{tier}" for tier in ("callers", "app", "pgbouncer", "postgres")]
    poll(
        lambda: all(page.state(one) in ("ok", "wait") for one in tiers),
        seconds=60,
        what="every tier is up",
    )
    assert all(page.text(f"{one} > div") for one in tiers)
    others = (
        "return performance.getEntriesByType('resource').map(one => one.name)"
        ".filter(name => !name.startsWith(location.origin))"
    )
    assert page.run(others) == []
    assert page.faults() == []
    colours = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
    assert (sum(map(int, colours)) < 3 * 128) is dark
    page.save(
        Path(os.environ.get("SCREENSHOTS", tmp_path))
        / f"{size[0]}-{'dark' if dark else 'light'}.png"
    )


def test_the_page_shows_the_budget_the_alerts_and_the_configuration(page: Page) -> None:
    poll(lambda: "What runs is what" in page.text("#pending"), seconds=60, what="the plan")
    for part, words in {
        "#bars": "sessions of PostgreSQL",
        # Without the rest of the profile.
        "#firing": "Prometheus does not answer",
    }.items():
        poll(lambda part=part, words=words: words in page.text(part), seconds=60, what=words)  # type: ignore[misc]
    poll(lambda: "kept by the console" in page.text("#span"), seconds=60, what="the charts' span")
    assert "API_POOL_MAX_SIZE" in page.text("#running")


def test_keys_and_screen_readers_reach_what_there_is(page: Page) -> None:
    names = (
        "return [...document.querySelectorAll('section, article')]"
        ".map(one => document.getElementById(one.getAttribute('aria-labelledby')).textContent)"
    )
    assert all(page.run(names))
    assert page.run("return document.querySelector('[aria-live=polite]').textContent")
    reached = set()
    for _ in range(6):
        page.press("Tab")
        reached.add(page.run("return document.activeElement.tagName"))
    assert "SUMMARY" in reached


@pytest.mark.usefixtures("healthy_again")
def test_a_pool_that_is_too_small_is_shown_where_it_waits(
    page: Page, ops: Commands, env: EnvDir, make_load: MakeLoad, record_property: Note
) -> None:
    setting = "PGBOUNCER_INTERACTIVE_POOL_SIZE"
    done = ops.apply(env.set(**SMALL_POOL))
    try:
        assert done.exit_code == 0, done.text
        with make_load(threads=24, pause_seconds=0.0, kinds={"status": 9, "submit": 1}) as load:
            wait_for_traffic(load, 200)
            shown(page, "pgbouncer", "wait", setting, record_property)
            poll(
                lambda: page.run(
                    "return document.querySelector('#pgbouncer').hasAttribute('data-here')"
                ),
                seconds=60,
                what="the bottleneck is marked",
            )
    finally:
        done = ops.run("apply", "--wait", "60")
    assert done.exit_code == 0, done.text


@pytest.mark.usefixtures("healthy_again")
def test_a_pgbouncer_that_is_killed_is_shown(
    page: Page, stack: Stack, record_property: Note
) -> None:
    with killed([stack.container("pgbouncer")]):
        shown(page, "pgbouncer", "down", "pgbouncer: a replica is not running", record_property)


@pytest.mark.usefixtures("healthy_again")
def test_a_postgres_that_is_paused_is_shown(
    page: Page, stack: Stack, record_property: Note
) -> None:
    with frozen([stack.container("postgres")]):
        shown(page, "postgres", "down", "postgres: ", record_property)
        # What answers is shown all the same.
        poll(lambda: page.state("#app") in ("ok", "wait"), seconds=60, what="the app is up")


def test_a_console_that_is_gone_is_noticed_and_comes_back(page: Page, stack: Stack) -> None:
    with killed([stack.container("console")]):
        poll(lambda: "this is old" in page.text("#feed"), seconds=60, what="the page says so")
    poll(lambda: page.text("#feed") == "live", seconds=60, what="the page is live again")
