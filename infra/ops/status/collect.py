"""Take a sample: every process asked at once, none able to delay the others.

Each is looked at several times: a queue is there at one instant and not at the next. What that
comes to is in looks.py.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from cryptography import x509

from infra.config.names import server_hop
from infra.config.settings import Value
from infra.ops import running
from infra.ops.clients import patroni, pgbouncer
from infra.ops.clients.app_control import Control, ProcessState
from infra.ops.clients.patroni import Instance
from infra.ops.clients.pgbouncer import PgBouncerAdmin
from infra.ops.clients.postgres import PostgresAdmin
from infra.ops.clients.processes import (
    Answer,
    Kept,
    OpsSettings,
    Target,
    TimedOutError,
    everywhere,
    first_line,
    resolve,
)
from infra.ops.running import CONTAINERS, Process, Running
from infra.ops.status.looks import (
    Counters,
    ServerLook,
    pools_over,
    preparing,
    process_over,
    server_over,
    totals,
    users,
)
from infra.ops.status.sample import (
    AppProcess,
    Backups,
    Certificate,
    Container,
    Disk,
    HostFacts,
    LastMinute,
    Pooler,
    Sample,
    Server,
)

CALL_SECONDS = 3.0
LOOKS = 10
# A process that is slow to answer gets fewer looks instead of this many times the seconds.
PATIENCE = 3
# States of a container that has ended.
_ENDED = ("exited", "dead", "restarting")
_SECRETS = Path("/secrets")
_P95 = 0.95
T = TypeVar("T")


class Collector:
    """Takes samples, each over `seconds`, in as many `looks`.

    Between two samples it keeps its sessions with PostgreSQL and PgBouncer's consoles.
    """

    def __init__(
        self,
        settings: OpsSettings,
        control: Control,
        *,
        recorded: Mapping[str, Value] | None,
        processors: int,
        host: HostFacts | None,
        seconds: float,
        looks: int = LOOKS,
        call_seconds: float = CALL_SECONDS,
        application_name: str = "sluice-ops",
    ) -> None:
        self._settings = settings
        self._control = control
        self._recorded = recorded
        self._processors = processors
        self._host = _with_reserve(host, settings.values["postgres"]["disk_reserve_mb"])
        self._seconds = seconds
        self._looks_max = looks
        self._session: dict[str, Any] = {
            "call_seconds": call_seconds,
            "application_name": application_name,
        }
        self._consoles = Kept[PgBouncerAdmin]()
        self._servers = Kept[PostgresAdmin]()

    def close(self) -> None:
        """End the sessions."""
        self._consoles.close()
        self._servers.close()

    def sample(self) -> Sample:
        """Look at every process; what does not answer says so in its part."""
        with ThreadPoolExecutor(4) as pool:
            instances = pool.submit(self._instances)
            app = pool.submit(self._app)
            poolers = pool.submit(self._poolers)
            server = pool.submit(self._server)
            processes, last_minute = app.result()
            return Sample(
                processes,
                poolers.result(),
                server.result(),
                self._host,
                certificates(_SECRETS),
                last_minute,
                instances.result(),
            )

    def _instances(self) -> tuple[Instance, ...]:
        return patroni.look(self._settings) if patroni.is_replicated(self._settings) else ()

    def _looks(self, look: Callable[[], T]) -> list[T]:
        """Look evenly within the seconds, at least once."""
        started, found = time.monotonic(), [look()]
        end = started + PATIENCE * self._seconds
        while len(found) < self._looks_max and time.monotonic() < end:
            due = started + len(found) * self._seconds / (self._looks_max - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            found.append(look())
        return found

    def _app(self) -> tuple[tuple[AppProcess, ...], LastMinute | None]:
        # All at once: the looks take the same second.
        answers = everywhere(self._control.targets(), self._states)
        found = [_app_process(self._control.service_of(one.target), one) for one in answers]
        found += [AppProcess(one, one, error=why) for one, why in self._control.absent().items()]
        states = (one.value[-1] for one in answers if one.value)
        minutes = [one.last_minute for one in states if one.last_minute]
        return tuple(found), last_minute(minutes) if minutes else None

    def _states(self, target: Target) -> list[ProcessState]:
        return self._looks(lambda: self._control.state(target))

    def _poolers(self) -> tuple[Pooler, ...]:
        targets = pgbouncer.replicas(self._settings)
        answers = everywhere(targets, self._pooler)
        self._consoles.close(but=targets)
        expected = int(self._settings.values["pgbouncer"]["replicas"])
        missing = [_missing_pooler() for _ in range(expected - len(targets))]
        found = [one.value or Pooler(str(one.target), error=one.error) for one in answers]
        return (*found, *missing)

    def _pooler(self, target: Target) -> Pooler:
        with self._consoles.session(
            target, lambda: PgBouncerAdmin(target, self._settings, **self._session)
        ) as admin:
            before = Counters(time.monotonic(), totals(admin.show("STATS")))
            looks = self._looks(admin.pools)
            now = Counters(time.monotonic(), totals(admin.show("STATS")))
            paused = admin.state().get("paused") == "yes"
            clients = admin.show("CLIENTS")
            databases = admin.databases()
        pools = pools_over(looks, databases, before, now)
        hops = {server_hop(row["host"]) for row in databases.values() if row["host"]}
        return Pooler(target.name, paused, " and ".join(sorted(hops)), pools, preparing(clients))

    def _server(self) -> Server:
        where = self._settings.values["postgres"]
        # A stopped container has no address; libpq would call that a fault of the name.
        if not resolve(where["host"], where["port"]):
            return Server(error="has no address: its container does not run")
        try:
            with self._servers.session(
                where["host"], lambda: PostgresAdmin(self._settings, **self._session)
            ) as admin:
                looks = self._looks(lambda: _look(admin))
                found = running.server(admin, self._settings, "postgres")
                server = _server(admin, found, looks, self._processors)
                return replace(server, outside=outside(found, self._recorded))
        except Exception as error:
            return Server(error=first_line(error))


def _with_reserve(host: HostFacts | None, reserve_mb: int) -> HostFacts | None:
    if host is None or host.disk is None:
        return host
    return replace(host, disk=replace(host.disk, reserve=reserve_mb << 20))


def _missing_pooler() -> Pooler:
    return Pooler("pgbouncer", error="a replica is not running")


def _app_process(service: str, answer: Answer[list[ProcessState]]) -> AppProcess:
    if answer.value is None:
        return AppProcess(service, answer.target.name, error=answer.error)
    return process_over(service, answer.target.name, answer.value)


def last_minute(processes: Iterable[dict[str, Any]]) -> LastMinute:
    """Sum up what the api processes say: `errors`, and pairs of time and count in `buckets`."""
    errors, counts = 0, Counter[float]()
    for one in processes:
        errors += one["errors"]
        for seconds, count in one["buckets"]:
            counts[seconds] += count
    requests, reached, p95 = counts.total(), 0, None
    for seconds in sorted(counts):
        reached += counts[seconds]
        if reached >= _P95 * requests:
            p95 = seconds
            break
    return LastMinute(requests, errors, p95)


def outside(server: Process, recorded: Mapping[str, Value] | None) -> tuple[str, ...] | None:
    """Return a line for what a role has that was not compiled; None where nothing was recorded.

    What waits for a restart was compiled, and is no such thing.
    """
    if recorded is None:
        return None
    found = Running((server,), recorded=recorded)
    return tuple(
        f"{one.setting} is {one.found}, compiled is {one.expected}: {one.cause}"
        for one in found.deviations(found.compiled)
        if one.setting.startswith("roles.") and not one.needs_restart
    )


def _server(
    admin: PostgresAdmin, found: Process, looks: Sequence[ServerLook], processors: int
) -> Server:
    roles = admin.roles(users(looks[-1]))
    limits = {name: role.connection_limit for name, role in roles.items()}
    maximum = int(found.found["settings.max_connections"])
    # Last: it alone can meet a lock or a schema that is not there, and all else is known then.
    tasks: dict[str, int | None] = {}
    with suppress(psycopg.Error, TimedOutError):
        tasks = dict(admin.tasks())
    backups = None
    with suppress(psycopg.Error, TimedOutError):
        backups = Backups(**admin.backups())
    return replace(
        server_over(looks, limits),
        max_connections=maximum,
        processors=processors,
        backups=backups,
        tasks_queued=tasks.get("queued"),
        tasks_running=tasks.get("running"),
    )


def _look(admin: PostgresAdmin) -> ServerLook:
    return ServerLook(admin.activity(), admin.blocked(), admin.is_checkpoint_urgent())


def host_facts(text: str) -> HostFacts | None:
    """Return what infra/host/containers.sh found on the host: one JSON object a line.

    A line is a container, what one of them holds (`memory`), or `disk`. None when the host handed
    over nothing.

    Raises:
        ValueError: it is not what infra/host/containers.sh prints.

    """
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not lines:
            return None
        held = {one["memory"]["name"]: one["memory"]["bytes"] for one in lines if "memory" in one}
        containers = tuple(
            _container(one, held) for one in lines if one.get("service") in CONTAINERS
        )
        disk = next((Disk(**one["disk"]) for one in lines if "disk" in one), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return HostFacts(containers, disk)


def _container(found: dict[str, object], held: dict[str, int]) -> Container:
    return Container(
        service=str(found["service"]),
        name=str(found["name"]).lstrip("/"),
        state=str(found["state"]),
        since=str(found["finished" if found["state"] in _ENDED else "started"])[:19] + "Z",
        exit_code=int(str(found["exit_code"])),
        restarts=int(str(found["restarts"])),
        health=str(found["health"]),
        oom_killed=bool(found["oom_killed"]),
        memory=int(held.get(str(found["name"]), 0)),
        memory_limit=int(str(found["memory_limit"])),
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
