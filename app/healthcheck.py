"""A container's health check: `python -m app.healthcheck URL`, exit 0 when it answers 2xx.

Docker Swarm ends what is unhealthy, and readiness depends on others: there it is
`python -m app.healthcheck READY LIVE`. Once READY has answered 2xx, LIVE is asked.

Only the standard library, and only its small parts: it runs every few seconds.
"""

import http.client
import sys
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 2.5
# In the container's own memory: gone with it.
WAS_READY = Path("/tmp/was-ready")  # noqa: S108


def check(url: str) -> str | None:
    """Return None when the URL answers 2xx in time, else one line that says why not."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return f"{url}: must be an http:// URL"
    connection = http.client.HTTPConnection(
        parts.hostname, parts.port or 80, timeout=TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        body = response.read(500)
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {error}"
    finally:
        connection.close()
    if 200 <= response.status < 300:
        return None
    return f"{url}: {response.status} {body.decode('utf-8', 'replace')}"


def main(arguments: list[str], was_ready: Path = WAS_READY) -> int:
    """Check the one URL given, or of two the first until it has answered; return the exit code."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: python -m app.healthcheck URL [LIVE_URL]\n")
        return 2
    begun = len(arguments) > 1 and was_ready.exists()
    fault = check(arguments[begun])
    if fault is not None:
        sys.stderr.write(f"{fault}\n")
    elif len(arguments) > 1:
        was_ready.touch()
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
