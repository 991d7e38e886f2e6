"""The four calls that the client makes, with patience for a 503."""

import json
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

PATH = "/api/v1/site-assessments"
CALL_SECONDS_MAX = 15.0
PAUSE_SECONDS = 1.0
# The stack is on this machine; a proxy from the environment would not reach it.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ClientError(Exception):
    """The api cannot be used; the message says how it failed and what to try."""


class Client:
    """Talks to one api; every call repeats 503 and connection errors until `until`."""

    def __init__(self, base_url: str, until: float) -> None:
        """Take the api's URL and the monotonic time after which to give up."""
        if not base_url.startswith(("http://", "https://")):
            raise ClientError(f"{base_url}: must start with http:// or https://")
        self.base_url = base_url.rstrip("/")
        self._until = until

    def submit(self, body: dict[str, Any]) -> str:
        """Submit an assessment and return its id; safe to repeat, as it carries a key."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        answer = self._call(PATH, json.dumps(body).encode(), headers)
        return str(answer["assessment_id"])

    def status(self, assessment_id: str) -> dict[str, Any]:
        """Return the assessment's status."""
        return self._call(f"{PATH}/{assessment_id}")

    def summary(self, assessment_id: str) -> dict[str, Any]:
        """Return what the assessment found."""
        return self._call(f"{PATH}/{assessment_id}/summary")

    def _call(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  # the scheme is checked above
            self.base_url + path, data=body, headers=headers or {}
        )
        while True:
            try:
                return _once(request)
            except _BusyError as error:
                if time.monotonic() + error.retry_after_seconds > self._until:
                    raise ClientError(f"{request.full_url}: {error}; gave up waiting") from error
                time.sleep(error.retry_after_seconds)


class _BusyError(Exception):
    """Not now; the same call may succeed later."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def _once(request: urllib.request.Request) -> dict[str, Any]:
    try:
        with OPENER.open(request, timeout=CALL_SECONDS_MAX) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        message = f"{error.code} {error.read(2000).decode('utf-8', 'replace')}"
        if error.code != 503:
            raise ClientError(f"{request.full_url}: {message}") from error
        seconds = error.headers.get("Retry-After", "")
        raise _BusyError(
            message, float(seconds) if seconds.isdecimal() else PAUSE_SECONDS
        ) from error
    except OSError as error:
        raise _BusyError(
            f"{error}; is the api up? try: docker compose ps", PAUSE_SECONDS
        ) from error
