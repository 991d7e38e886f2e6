"""The control plane of the app, from the operator's side: look at, reload, drain each process.

Every replica has an address of its own behind the service's alias on the control network, and
of the processes of one container each has a port of its own, the first that of ops.json;
a command talks to each of them over TLS verified against the private CA, with the token of
the service. Use it with `processes.everywhere`:

    control = connect(settings)
    answers = everywhere(control.targets("worker"), control.reload)
"""

import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx

from infra.ops.clients.processes import Answer, OpsSettings, Target, everywhere, resolve
from infra.ops.outcome import FailedError
from infra.ops.waiting import gone, wait_until

T = TypeVar("T")
SERVICES = ("api", "worker")
DRAIN_AGAIN_SECONDS = 2.0
_POLL_SECONDS = 0.1
# A process answers from a thread of its own; one that takes longer is frozen or starved.
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0
# A process closes a connection that nobody has used for 5 s.
KEEP_SECONDS = 4.0
# Reload opens and closes connections, so it may meet a slow database.
CHANGE_SECONDS = 15.0
# A new process has a minute to become ready, a retiring one a minute to end, and both may have to
# wait for those of another process.
RESTART_SECONDS = 255.0


class ControlError(FailedError):
    """A process did not do what it was asked; the message says what and why."""


class NotListeningError(ControlError):
    """Nobody listens on the process's port: it has ended, or has not come up."""


class ReloadRefusedError(ControlError):
    """The process refused its new settings file; it goes on with the old values."""


@dataclass(frozen=True, slots=True)
class PoolNumbers:
    """Numbers of connections of one process's pool (of callers, for the last two).

    `unreachable` is True while the pool reaches no server and refuses callers at once.
    """

    name: str
    size: int
    min_size: int
    max_size: int
    in_use: int
    idle: int
    waiting: int
    max_waiting: int
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What a process says of itself.

    `settings` is the whole document of running values, in the shape of api.json or
    worker.json. Fields whose value in the file differs from the running one, by dotted
    name: `needs_reload` those that a reload takes over, `needs_restart` the others.
    `file_fault` says why the file cannot be used, and is empty when it can. `last_minute` is of
    the requests, None where the process answers none: `errors` (5xx), and `buckets`, pairs of an
    upper bound in seconds and how many answers took that.
    """

    target: Target
    service: str
    instance: str
    pid: int
    started_at: str
    settings: dict[str, Any]
    pool: PoolNumbers
    needs_restart: tuple[str, ...]
    needs_reload: tuple[str, ...] = ()
    file_fault: str = ""
    last_minute: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """Everything needed to reach the processes; made from ops.json by `connect`.

    `replicas` and `processes` are the containers and the processes that each service should
    have, as compiled. `kept` has the connections of who looks again and again; a process that does
    not say its state within `state_seconds` is given up.
    """

    port: int
    aliases: dict[str, str]
    replicas: dict[str, int]
    processes: dict[str, int]
    tokens: dict[str, str] = field(repr=False)
    tls: ssl.SSLContext
    kept: httpx.Client | None = field(default=None, repr=False)
    state_seconds: float = ANSWER_SECONDS

    def close(self) -> None:
        """Close what is kept."""
        if self.kept:
            self.kept.close()

    def targets(self, *services: str) -> tuple[Target, ...]:
        """Return every process of the services (of all where none is given).

        How many a container has is what those that answer say: a change of it may still wait for
        the restart. Where none answers it is what was compiled. A service whose alias names
        nobody has no target; see `absent`.
        """
        return tuple(
            process
            for service in services or SERVICES
            for container in resolve(self.aliases[service], self.port)
            for process in self._processes_of(container, service)
        )

    def absent(self, *services: str) -> dict[str, str]:
        """Return, by service that has fewer containers than it should, a line that says so."""
        found = {one: len(resolve(self.aliases[one], self.port)) for one in services or SERVICES}
        return {
            one: f"{count} of {self.replicas[one]} {one} containers have an address"
            for one, count in found.items()
            if count < self.replicas[one]
        }

    def _processes_of(self, container: Target, service: str) -> tuple[Target, ...]:
        count = self.processes[service] // self.replicas[service]
        if service == "api":
            answers = everywhere(numbered(container, count), self.state)
            said = [int(one.value.settings.get("processes", 1)) for one in answers if one.value]
            count = max(said, default=count)
        return numbered(container, count)

    def service_of(self, target: Target) -> str:
        """Return the service a target belongs to: "api" or "worker"."""
        return next(name for name, alias in self.aliases.items() if alias == target.host)

    def state(self, target: Target) -> ProcessState:
        """Return what a process says of itself; raise ControlError."""
        return self._call(target, "GET", "state", self.state_seconds)

    def reload(self, target: Target) -> ProcessState:
        """Let a process read its settings file again; return its state afterwards.

        Raises:
            ReloadRefusedError: the file cannot be used; the old values serve.
            ControlError: the process could not be reached or asked.

        """
        return self._call(target, "POST", "reload", CHANGE_SECONDS)

    def drain(self, target: Target) -> ProcessState:
        """Let a process replace its connections: idle ones now, lent ones when returned."""
        return self._call(target, "POST", "drain", CHANGE_SECONDS)

    def restart(self, target: Target) -> ProcessState:
        """Have a successor take over the process's socket; return the old process's last state.

        Raises:
            ControlError: the successor did not become ready, and the old process goes on; or
                the service has no successors, and is restarted with its container.

        """
        return self._call(target, "POST", "restart", RESTART_SECONDS)

    def _call(self, target: Target, method: str, what: str, seconds: float) -> ProcessState:
        url = f"https://{_host(target.address)}:{target.port}/control/{what}"
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        headers = {
            "Authorization": f"Bearer {self.tokens[self.service_of(target)]}",
            "Host": target.host,
        }
        try:
            with self._client() as client:
                answer = client.request(
                    method,
                    url,
                    headers=headers,
                    timeout=timeout,
                    extensions={"sni_hostname": target.host},
                )
        except httpx.HTTPError as error:
            kind = NotListeningError if _is_refused(error) else ControlError
            raise kind(f"{what}: {_reason(error)}") from error
        return _parsed(target, what, answer)

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        if self.kept:
            yield self.kept
        else:
            with _http(self.tls) as client:
                yield client


def _http(tls: ssl.SSLContext) -> httpx.Client:
    # No proxy of the environment may come between.
    limits = httpx.Limits(keepalive_expiry=KEEP_SECONDS)
    return httpx.Client(verify=tls, trust_env=False, limits=limits)


def drained(drain: Callable[[], object], left: Callable[[], T], *, seconds: float) -> T:
    """Have the pools drained again and again until nothing is left; return what is left after all.

    Connections that were being made during one drain are caught by the next.
    """
    again = 0.0

    def look() -> T:
        nonlocal again
        found = left()
        if found and time.monotonic() >= again:
            drain()
            again = time.monotonic() + DRAIN_AGAIN_SECONDS
        return found

    return wait_until(look, gone, seconds=seconds, every=_POLL_SECONDS)


def connect(
    settings: OpsSettings, *, keep: bool = False, state_seconds: float = ANSWER_SECONDS
) -> Control:
    """Return the control plane that ops.json describes; raise OSError for a missing file.

    With `keep` its connections stay open between calls: for who only looks, and closes it.
    """
    section: dict[str, Any] = settings.values["control"]
    services: dict[str, dict[str, Any]] = section["services"]
    tls = ssl.create_default_context(cafile=settings.values["sslrootcert"])
    # As strict as libpq is on the other hops: a company's CA may leave out the key identifiers.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    return Control(
        port=section["port"],
        aliases={name: one["alias"] for name, one in services.items()},
        replicas={name: one["replicas"] for name, one in services.items()},
        processes={name: one["processes"] for name, one in services.items()},
        tokens={
            name: Path(one["token_file"]).read_text(encoding="ascii").strip()
            for name, one in services.items()
        },
        tls=tls,
        kept=_http(tls) if keep else None,
        state_seconds=state_seconds,
    )


def not_up(answers: Iterable[Answer[T]]) -> tuple[Answer[T], ...]:
    """Return the answers of api processes that are not there while another of their container is.

    The supervisor tries to start each again and again; one that comes up reads its settings then.
    """
    found = tuple(answers)
    serving = {one.target.container for one in found if one.ok}
    return tuple(
        one
        for one in found
        if isinstance(one.raised, NotListeningError) and one.target.container in serving
    )


def numbered(container: Target, count: int) -> tuple[Target, ...]:
    """Return the processes of a container; where it has one, that has the container's name."""
    if count == 1:
        return (container,)
    return tuple(
        replace(container, name=f"{container.name} process {slot + 1}", port=container.port + slot)
        for slot in range(count)
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _parsed(target: Target, what: str, answer: httpx.Response) -> ProcessState:
    document = _document(answer)
    if answer.status_code != HTTPStatus.OK:
        message = document.get("error", {}).get("message") or f"answered {answer.status_code}"
        refused = answer.status_code == HTTPStatus.CONFLICT
        raise (ReloadRefusedError if refused else ControlError)(f"{what}: {message}")
    try:
        fields = document | {
            "pool": PoolNumbers(**document["pool"]),
            "needs_restart": tuple(document["needs_restart"]),
            "needs_reload": tuple(document.get("needs_reload", ())),
        }
        return ProcessState(target=target, **fields)
    except (KeyError, TypeError) as error:
        raise ControlError(f"{what}: an answer of another version: {error}") from error


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _is_refused(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _reason(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
