"""What one look at the whole path found; plain numbers, nothing of where they came from."""

from dataclasses import dataclass

from infra.ops.clients.patroni import Instance


@dataclass(frozen=True, slots=True)
class AppProcess:
    """The pool of one api or worker process; `error` is why there are no numbers."""

    service: str
    name: str
    size: int = 0
    max_size: int = 0
    in_use: int = 0
    idle: int = 0
    waiting: int = 0
    max_waiting: int = 0
    needs_restart: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class LastMinute:
    """The requests that the api processes answered in the last sixty seconds.

    `errors` were answered 5xx. 95 % took `p95_seconds` at most, which is too long by a quarter
    at most; None without a request.
    """

    requests: int
    errors: int
    p95_seconds: float | None


@dataclass(frozen=True, slots=True)
class ServerPool:
    """One pool of one PgBouncer replica.

    Clients are active (linked to a server, or idle between transactions) or waiting for a
    server connection, the longest for `max_wait_seconds`. Rates are per second between
    two samples and per database entry; the times are means in milliseconds, 0 when
    nothing was done.
    """

    database: str
    user: str
    clients_active: int = 0
    clients_waiting: int = 0
    servers_active: int = 0
    servers_idle: int = 0
    servers_login: int = 0
    max_wait_seconds: float = 0.0
    pool_size: int = 0
    reserve_size: int = 0
    queries_per_second: float = 0.0
    transactions_per_second: float = 0.0
    query_ms: float = 0.0
    transaction_ms: float = 0.0
    wait_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class PreparingClient:
    """A client connection with its prepared statements; `id` is that of KILL_CLIENT."""

    id: int
    user: str
    address: str
    application_name: str
    statements: int


@dataclass(frozen=True, slots=True)
class Pooler:
    """One PgBouncer replica; `error` is why there are no numbers.

    `server_hop` is its way to PostgreSQL, as PGBOUNCER_SERVER_HOP has it, or the host that it uses.
    `preparing` is the client with most prepared statements, None while there is none.
    """

    name: str
    paused: bool = False
    server_hop: str = ""
    pools: tuple[ServerPool, ...] = ()
    preparing: PreparingClient | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class RoleSessions:
    """The sessions of one role by state, and its connection limit (-1: none)."""

    role: str
    limit: int
    by_state: dict[str, int]

    @property
    def total(self) -> int:
        """Return the sessions in every state."""
        return sum(self.by_state.values())


@dataclass(frozen=True, slots=True)
class Session:
    """One session with the age of its transaction (or of its wait), in seconds."""

    pid: int
    user: str
    seconds: float
    query: str
    blocked_by: tuple[int, ...] = ()
    state: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """PostgreSQL; `on_cpu` counts running sessions that wait for nothing, `on_disk` those on I/O.

    `checkpointing` is True while a checkpoint writes as fast as it can. `idle` are sessions in a
    transaction that have sent nothing for a while, and for how long. `tasks_queued` includes those
    that wait for another try; both counts are None where the table could not be read. `outside`
    says, line by line, what roles have that was not compiled; None where that is not known.
    """

    max_connections: int = 0
    processors: int = 1
    roles: tuple[RoleSessions, ...] = ()
    on_cpu: int = 0
    on_disk: int = 0
    checkpointing: bool = False
    idle: tuple[Session, ...] = ()
    oldest: Session | None = None
    blocked: tuple[Session, ...] = ()
    holders: tuple[Session, ...] = ()
    tasks_queued: int | None = None
    tasks_running: int | None = None
    outside: tuple[str, ...] | None = None
    error: str = ""

    @property
    def connections(self) -> int:
        """Return the client sessions of every role."""
        return sum(role.total for role in self.roles)


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a tier as Docker on the host knows it.

    `since` is when it ended, or when it was started while it has not: Docker keeps no time
    of a pause. `memory` is what its processes hold, of `memory_limit`, in bytes; 0: not known.
    """

    service: str
    name: str
    state: str
    since: str
    exit_code: int = 0
    restarts: int = 0
    health: str = ""
    oom_killed: bool = False
    memory: int = 0
    memory_limit: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of PostgreSQL's data directory, in bytes.

    With less than `reserve` free, log and temporary files alone may fill it at any moment.
    """

    size: int
    free: int
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate by its file name, and the whole days until it expires (negative: since)."""

    name: str
    days: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What only the host knows; `disk` is None where PostgreSQL's container does not run."""

    containers: tuple[Container, ...]
    disk: Disk | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole path at one moment, app first.

    `host` is None when nobody asked the host, `last_minute` when no api process answered.
    `instances` are those of three, of a single server none.
    """

    app: tuple[AppProcess, ...]
    poolers: tuple[Pooler, ...]
    server: Server
    host: HostFacts | None = None
    certificates: tuple[Certificate, ...] = ()
    last_minute: LastMinute | None = None
    instances: tuple[Instance, ...] = ()

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Return every process that gave no numbers, and why."""
        parts: tuple[Instance | AppProcess | Pooler, ...]
        parts = (*self.instances, *self.poolers, *self.app)
        found = tuple(f"{part.name}: {part.error}" for part in parts if part.error)
        # From the database upwards: what stands on it fails with it.
        return (f"postgres: {self.server.error}", *found) if self.server.error else found
