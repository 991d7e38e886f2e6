"""What a container cannot see for itself: its neighbours' state, the disk, the certificates.

No container has the Docker socket, so infra/host/containers.sh asks on the host and hands over
one JSON object a line: a container, or `disk`.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from infra.ops.status.sample import Certificate, Container, Disk, HostFacts

TIERS = ("postgres", "pgbouncer", "api", "worker")
_ENDED = ("exited", "dead", "restarting")


def parse(text: str) -> HostFacts | None:
    """Return what the host handed over; None when it handed over nothing.

    Raises:
        ValueError: it is not what infra/host/containers.sh prints.

    """
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not lines:
            return None
        containers = tuple(_container(one) for one in lines if one.get("service") in TIERS)
        disk = next((Disk(**one["disk"]) for one in lines if "disk" in one), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return HostFacts(containers, disk)


def _container(found: dict[str, object]) -> Container:
    return Container(
        service=str(found["service"]),
        name=str(found["name"]).lstrip("/"),
        state=str(found["state"]),
        since=str(found["finished" if found["state"] in _ENDED else "started"])[:19] + "Z",
        exit_code=int(str(found["exit_code"])),
        restarts=int(str(found["restarts"])),
        health=str(found["health"]),
        oom_killed=bool(found["oom_killed"]),
    )


def certificates(directory: Path) -> tuple[Certificate, ...]:
    """Return every certificate of a directory that can be read, the first to expire first."""
    found = []
    for path in directory.glob("*.crt"):
        try:
            one = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            continue
        found.append(Certificate(path.name, (one.not_valid_after_utc - datetime.now(UTC)).days))
    return tuple(sorted(found, key=lambda one: (one.days, one.name)))
