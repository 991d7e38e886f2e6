"""A container's health check: `python -m app.healthcheck URL`, exit 0 when it answers 2xx.

Only the standard library, and only its small parts: it runs every few seconds.
"""

import http.client
import sys
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 2.5


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


def main(arguments: list[str]) -> int:
    """Check the one URL given; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m app.healthcheck URL\n")
        return 2
    fault = check(arguments[0])
    if fault is not None:
        sys.stderr.write(f"{fault}\n")
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
