"""The console of the running stack, and a headless browser that shows its page."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import command
from tests.fix_stack import REPOSITORY, Stack, poll

BUILD_SECONDS = 600
# It shows a page of this machine, and is to look for nothing else.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class Page:
    """A page in the browser, by the WebDriver protocol."""

    def __init__(self, driver: str) -> None:
        self._http = httpx.Client(base_url=driver, timeout=60, trust_env=False)
        options = {"args": list(ARGUMENTS)}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def close(self) -> None:
        """End the browser."""
        self._http.delete(self._session)
        self._http.close()

    def look(self, width: int, height: int, *, dark: bool) -> None:
        """Be a screen of this size, in pixels, whose user prefers this scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, url: str) -> None:
        """Go to an address."""
        self._post(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """Return what a function's body of JavaScript returns."""
        return self._post(f"{self._session}/execute/sync", {"script": script, "args": []})

    def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds."""
        return str(self.run(f"return document.querySelector('{selector}').textContent"))

    def state(self, selector: str) -> str:
        """Return the state that an element shows."""
        return str(self.run(f"return document.querySelector('{selector}').dataset.state"))

    def faults(self) -> list[str]:
        """Return what the browser has complained of since it was asked last."""
        rows = self._post(f"{self._session}/se/log", {"type": "browser"})
        return [row["message"] for row in rows if row["level"] == "SEVERE"]

    def press(self, key: str) -> None:
        """Press a key."""
        self._devtools("Input.dispatchKeyEvent", {"type": "keyDown", "key": key, "code": key})
        self._devtools("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, "code": key})

    def save(self, path: Path) -> None:
        """Write a picture of the whole page."""
        picture = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(picture["data"]))

    def _devtools(self, name: str, parameters: dict[str, Any]) -> Any:
        return self._post(f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _post(self, path: str, document: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=document)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]


@pytest.fixture(scope="session")
def browser(stack: Stack) -> Iterator[str]:
    """Return the address of a driver of browsers, in a container on the host's network."""
    image = f"sluice-browser:{os.environ.get('SLUICE_IMAGE_TAG', 'latest')}"
    base = os.environ.get("BASE_IMAGE", "debian:trixie-slim")
    words = ("--build-arg", f"BASE_IMAGE={base}", "--tag", image)
    context = str(REPOSITORY / "tests" / "console")
    built = command.run("docker", "build", "--quiet", *words, context, seconds=BUILD_SECONDS)
    assert built.exit_code == 0, built.text
    container = stack.client.containers.run(
        image, detach=True, init=True, network_mode="host", mem_limit="1g"
    )
    try:
        pattern = re.compile(rb"started successfully on port (\d+)")
        (port,) = poll(
            lambda: pattern.findall(container.logs()), seconds=60, what="the driver has started"
        )
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        container.remove(force=True)


@pytest.fixture(scope="module")
def console_url(
    stack: Stack, settings: dict[str, str], observability_images: None
) -> Iterator[str]:
    """Return the console's address; it runs for the module's tests, without its profile."""
    profile = ("--profile", "observability")
    done = stack.compose(*profile, "up", "--detach", "--wait", "--no-deps", "console")
    assert done.exit_code == 0, done.text
    try:
        yield f"http://127.0.0.1:{settings['CONSOLE_PORT']}"
    finally:
        done = stack.compose(*profile, "rm", "--stop", "--force", "console")
        assert done.exit_code == 0, done.text


@pytest.fixture
def page(browser: str, console_url: str) -> Iterator[Page]:
    """Return a page that shows the console, live."""
    made = Page(browser)
    try:
        made.look(1400, 900, dark=False)
        made.open(console_url)
        poll(lambda: made.text("#feed") == "live", seconds=60, what="the page is live")
        yield made
    finally:
        made.close()
