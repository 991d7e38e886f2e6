"""Three PostgreSQL instances as Patroni knows them: who is the primary, who follows, how far.

To look takes no certificate, a command takes the one that ops has for it.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx

from infra.config.names import PATRONI_PORT
from infra.ops.clients.processes import OpsSettings, Target, everywhere
from infra.ops.outcome import FailedError, RefusedError

ANSWER_SECONDS: Final = 3.0
# Patroni answers when the switch is over.
_SWITCH_SECONDS: Final = 60.0
_PRIMARY_ROLES: Final = ("leader", "primary")
_SYNCHRONOUS_ROLES: Final = ("sync_standby", "quorum_standby")


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance; `error` is why nothing is known of it.

    `role` is primary, standby, or synchronous standby: one of those whose answer a write waits for.
    `lag_bytes` is what it has not replayed yet; None of the primary, and where it is not known.
    `started` is when its server process was. `etcd_seconds` is how long ago it last reached etcd;
    with `failsafe` it is the primary, or follows it, without a quorum there.
    """

    name: str
    role: str = ""
    state: str = ""
    timeline: int = 0
    lag_bytes: int | None = None
    started: str = ""
    pending_restart: bool = False
    etcd_seconds: float | None = None
    failsafe: bool = False
    error: str = ""

    @property
    def is_primary(self) -> bool:
        """Return True if it takes writes."""
        return self.role == "primary" and self.state == "running"

    @property
    def follows(self) -> bool:
        """Return True if it is a standby that streams."""
        return self.role.endswith("standby") and self.state == "streaming"


def is_replicated(settings: OpsSettings) -> bool:
    """Return True if there are standbys."""
    return len(settings.values["postgres"]["instances"]) > 1


def look(settings: OpsSettings) -> tuple[Instance, ...]:
    """Return every instance in the order of their names, each asked itself."""
    answers = everywhere(
        _targets(settings),
        lambda target: (_get(settings, target.name, "patroni"), _cluster(settings, target.name)),
    )
    rows: dict[str, dict[str, Any]] = {}
    for answer in answers:
        if answer.value:
            rows |= {row["name"]: row for row in answer.value[1]}
    return tuple(
        _instance(one.target.name, one.value[0], rows.get(one.target.name, {}))
        if one.value
        else Instance(one.target.name, error=one.error)
        for one in answers
    )


def primary(instances: tuple[Instance, ...]) -> Instance | None:
    """Return the one that takes writes."""
    return next((one for one in instances if one.is_primary), None)


def require(settings: OpsSettings) -> tuple[Instance, ...]:
    """Return the primary, then the standbys; refuse unless all are there and follow.

    Raises:
        RefusedError: names each that is not.

    """
    found = look(settings)
    faults = [
        f"{one.name}: {one.error or f'{one.role}, {one.state}'}"
        for one in found
        if not (one.is_primary or one.follows)
    ]
    if (leader := primary(found)) is None:
        faults.append("no instance is the primary")
    if faults or leader is None:
        raise RefusedError("; ".join(faults))
    return (leader, *(one for one in found if one is not leader))


def switchover(settings: OpsSettings, leader: str, candidate: str) -> None:
    """Have the primary hand over to a standby; return when it says that it is done.

    Raises:
        FailedError: it did not.

    """
    _command(settings, leader, "switchover", {"leader": leader, "candidate": candidate})


def reload(settings: OpsSettings) -> list[str]:
    """Have every instance, Patroni and server, read its files again; a single server has none.

    Return a line for each that did not take the command. One that is down reads them at its start.
    """
    if not is_replicated(settings):
        return []
    answers = everywhere(
        _targets(settings), lambda target: _command(settings, target.name, "reload", {})
    )
    return [f"{one.target}: {one.error}" for one in answers if one.error]


def _targets(settings: OpsSettings) -> list[Target]:
    names = settings.values["postgres"]["instances"]
    return [Target(name, name, name, PATRONI_PORT) for name in names]


def _command(settings: OpsSettings, name: str, path: str, body: Mapping[str, str]) -> None:
    directory = Path(settings.values["sslrootcert"]).parent
    context = _trust(settings)
    context.load_cert_chain(directory / "patroni.crt", directory / "patroni.key")
    url = f"https://{name}:{PATRONI_PORT}/{path}"
    try:
        with httpx.Client(verify=context, trust_env=False, timeout=_SWITCH_SECONDS) as client:
            answer = client.post(url, json=dict(body))
    except httpx.HTTPError as error:
        raise FailedError(f"{name}: {path}: {error}") from error
    if answer.status_code not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        raise FailedError(f"{name}: {path}: {answer.status_code} {answer.text[:200]}")


def _trust(settings: OpsSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.values["sslrootcert"])


def _get(settings: OpsSettings, name: str, path: str) -> dict[str, Any]:
    context = _trust(settings)
    url = f"https://{name}:{PATRONI_PORT}/{path}"
    with httpx.Client(verify=context, trust_env=False, timeout=ANSWER_SECONDS) as client:
        # A status other than 200 says the role; the document is whole in any case.
        document: dict[str, Any] = client.get(url).json()
        return document


def _cluster(settings: OpsSettings, name: str) -> list[dict[str, Any]]:
    return list(_get(settings, name, "cluster").get("members", []))


def _instance(name: str, own: dict[str, Any], row: dict[str, Any]) -> Instance:
    role = row.get("role") or own.get("role", "")
    if role in _PRIMARY_ROLES and own.get("role") == "primary":
        shown = "primary"
    elif role in _SYNCHRONOUS_ROLES:
        shown = "synchronous standby"
    else:
        shown = "standby"
    streams = own.get("replication_state") == "streaming"
    state = "streaming" if shown != "primary" and streams else str(own.get("state", ""))
    lag = row.get("lag")
    seen = own.get("dcs_last_seen")
    return Instance(
        name,
        shown,
        state,
        int(own.get("timeline") or row.get("timeline") or 0),
        lag if isinstance(lag, int) and shown != "primary" else None,
        str(own.get("postmaster_start_time", "")),
        bool(own.get("pending_restart")),
        None if seen is None else max(time.time() - float(seen), 0.0),
        bool(own.get("failsafe_mode_is_active")),
    )
