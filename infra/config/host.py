"""What must hold between the env file and the host, which no container sees for itself.

infra/host/common.sh asks on the host and hands over one JSON object a line. A fact that is not
there (another operating system, a remote daemon) is not judged.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from infra.config import catalogue, observability
from infra.config.faults import Fault
from infra.config.rules import published_ports
from infra.config.settings import BadValueError, UnavailableError, Values
from infra.config.times import shown

HOST_SHOWN: Final = "this host"
# Engine: health checks with start_interval. Compose: the oldest that is tested.
DOCKER_MINIMUM: Final = (25, 0)
COMPOSE_MINIMUM: Final = (2, 26)
# A new database beside its write-ahead log.
NEW_DATABASE_MB: Final = 512

_CPUS = ("POSTGRES_CPUS", "PGBOUNCER_CPUS", "API_CPUS", "WORKER_CPUS")
_PUBLISHED = re.compile(r"([0-9a-f.:\[\]]+):(\d+)(?:-(\d+))?->")
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """A running container and the ports that it publishes, as `docker ps` writes them."""

    container: str
    project: str
    ports: str

    def publishes(self, address: str, port: int) -> bool:
        """Return True if this container has `port` of an address that takes `address`."""
        return any(
            int(first) <= port <= int(last or first) and _takes(found.strip("[]"), address)
            for found, first, last in _PUBLISHED.findall(self.ports)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The facts of one host; None is unknown.

    `open_files` is the hard limit of a container, known only where it is below the setting.
    `addresses` are the host's own, without loopback.
    `listening` are local TCP addresses, hexadecimal as in /proc/net/tcp. `environment` are
    settings of the caller's environment, which Compose reads before the env file.
    """

    project: str = ""
    processors: int | None = None
    memory_bytes: int | None = None
    docker: str | None = None
    compose: str | None = None
    open_files: int | None = None
    disk_free_bytes: int | None = None
    has_data: bool = False
    addresses: tuple[str, ...] | None = None
    published: tuple[Published, ...] = ()
    listening: frozenset[str] = frozenset()
    environment: tuple[tuple[str, str], ...] = ()


Rule = Callable[[Values, Host], Iterator[str]]


def parse(text: str) -> Host | None:
    """Return what the host handed over; None when it handed over nothing.

    Raises:
        ValueError: a line is not JSON.
        TypeError: a line has a field that is not known.

    """
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    single: dict[str, object] = {}
    for line in lines:
        if not line.keys() & {"container", "listening", "name"}:
            single |= line
    return Host(
        **single,  # type: ignore[arg-type]  # a name that is not a field raises TypeError
        published=tuple(Published(**line) for line in lines if "container" in line),
        listening=frozenset(line["listening"] for line in lines if "listening" in line),
        environment=tuple((line["name"], line["value"]) for line in lines if "name" in line),
    )


def faults(values: Values, host: Host, *, file: str) -> tuple[Fault, ...]:
    """Return everything in the env file that this host cannot carry."""
    return (
        *(Fault(HOST_SHOWN, message) for message in _versions(host)),
        *(Fault(file, message) for rule in _RULES for message in _judge(rule, values, host)),
    )


def warnings(values: Values, host: Host, *, file: str) -> tuple[Fault, ...]:
    """Return what an operator should know of this host."""
    rules = (_disk_with_data, _disk_to_come)
    return tuple(Fault(file, message) for rule in rules for message in _judge(rule, values, host))


def _versions(host: Host) -> Iterator[str]:
    asked = (
        ("Docker Engine", host.docker, DOCKER_MINIMUM),
        ("Docker Compose", host.compose, COMPOSE_MINIMUM),
    )
    for name, found, minimum in asked:
        match = re.match(r"v?(\d+)\.(\d+)", found or "")
        if match and (int(match[1]), int(match[2])) < minimum:
            yield f"{name} {found} is older than {minimum[0]}.{minimum[1]}; upgrade it"


def _environment(values: Values, host: Host) -> Iterator[str]:
    settings = catalogue.by_name()
    for name, text in host.environment:
        try:
            same = settings[name].parse(text) == values[name]
        except BadValueError:
            same = False
        except (KeyError, UnavailableError):
            # No setting, or one that is itself at fault.
            continue
        if not same:
            yield (
                f"{shown(values, name)} is overridden by {name}={text[:40]} in the environment, "
                f"which Compose reads first; unset it"
            )


def _processors(values: Values, host: Host) -> Iterator[str]:
    for name in _CPUS:
        try:
            wanted = values.number(name)
        except UnavailableError:
            continue
        if host.processors is not None and wanted > host.processors:
            yield (
                f"{shown(values, name)} exceeds the {host.processors} processors of this host; "
                "Docker would refuse the container"
            )


def _api_replicas(values: Values, _host: Host) -> Iterator[str]:
    if values.integer("API_REPLICAS") > 1:
        yield (
            f"{shown(values, 'API_REPLICAS')}, and the port of a single host belongs to one "
            "container; write 1, or deploy to several hosts: make swarm-up"
        )


def _memory(values: Values, host: Host) -> Iterator[str]:
    servers = values.integer("POSTGRES_INSTANCES")
    limits = [
        (servers, "POSTGRES_INSTANCES" if servers > 1 else "", "POSTGRES_MEMORY_MB"),
        (values.integer("PGBOUNCER_REPLICAS"), "PGBOUNCER_REPLICAS", "PGBOUNCER_MEMORY_MB"),
        *([(1, "", "PGBOUNCER_MEMORY_MB")] if values.integer("PGBOUNCER_PORT") else []),
        (1, "", "API_MEMORY_MB"),
        (values.integer("WORKER_REPLICAS"), "WORKER_REPLICAS", "WORKER_MEMORY_MB"),
        *([(1, "", "PROMETHEUS_MEMORY_MB")] if observability.is_on(values) else []),
    ]
    demand = sum(count * values.integer(limit) for count, _, limit in limits)
    if host.memory_bytes is not None and demand * _MB > host.memory_bytes:
        terms = (shown(values, *filter(None, (count, limit))) for _, count, limit in limits)
        yield (
            f"{' + '.join(terms).replace(', ', ' x ')} = {demand} exceeds the "
            f"{host.memory_bytes // _MB} MB of this host; the kernel would kill a tier"
        )


def _open_files(values: Values, host: Host) -> Iterator[str]:
    wanted = values.integer("PGBOUNCER_OPEN_FILES")
    if host.open_files is not None and wanted > host.open_files:
        yield (
            f"{shown(values, 'PGBOUNCER_OPEN_FILES')} exceeds the hard limit of open files of this "
            f"host's containers, {host.open_files}; lower it, or raise the Docker daemon's limit"
        )


def _disk(values: Values, host: Host) -> Iterator[str]:
    if not host.has_data:
        each = values.integer("POSTGRES_MAX_WAL_MB") + NEW_DATABASE_MB
        yield from _room(values, host, each * values.integer("POSTGRES_INSTANCES"))


def _disk_with_data(values: Values, host: Host) -> Iterator[str]:
    # Not refused: part of the log is there already, and a smaller one must be possible.
    if host.has_data:
        yield from _room(values, host, values.integer("POSTGRES_MAX_WAL_MB"))


def _disk_to_come(values: Values, host: Host) -> Iterator[str]:
    """Warn before the first start; afterwards a part of it is taken, and how much is not known."""
    servers = values.integer("POSTGRES_INSTANCES")
    wanted = values.integer("POSTGRES_DISK_MB") * servers
    if host.has_data or host.disk_free_bytes is None:
        return
    if host.disk_free_bytes < wanted * _MB:
        yield (
            f"{shown(values, 'POSTGRES_DISK_MB')}{f' x {servers} servers' if servers > 1 else ''} "
            f"exceeds the {host.disk_free_bytes // _MB} MB "
            "free under Docker's data directory; lower it or make room"
        )


def _room(values: Values, host: Host, wanted_mb: int) -> Iterator[str]:
    if host.disk_free_bytes is not None and host.disk_free_bytes < wanted_mb * _MB:
        yield (
            f"{shown(values, 'POSTGRES_MAX_WAL_MB')} needs up to {wanted_mb} MB of disk, and "
            f"{host.disk_free_bytes // _MB} MB are free under Docker's data directory; "
            "lower it or make room"
        )


def _address(values: Values, host: Host) -> Iterator[str]:
    wanted = ipaddress.ip_address(values.text("API_BIND_ADDRESS"))
    if host.addresses is None or wanted.is_unspecified or wanted.is_loopback:
        return
    if str(wanted) not in host.addresses:
        yield (
            f"{shown(values, 'API_BIND_ADDRESS')} is no address of this host; it has "
            f"{', '.join(host.addresses) or 'none but loopback'}"
        )


def _ports(values: Values, host: Host) -> Iterator[str]:
    for setting in published_ports(values):
        address = values.text("API_BIND_ADDRESS") if setting == "API_PORT" else "127.0.0.1"
        yield from _port(values, host, setting, address)


def _port(values: Values, host: Host, setting: str, address: str) -> Iterator[str]:
    port = values.integer(setting)
    holders = [one for one in host.published if one.publishes(address, port)]
    if any(one.project == host.project for one in holders):
        return
    listening = (one.partition(":") for one in host.listening)
    if holders:
        holder = f"container {holders[0].container}"
    elif any(
        int(at, 16) == port and _takes(_decoded(found), address) for found, _, at in listening
    ):
        holder = "another program"
    else:
        return
    yield (
        f"{shown(values, setting)} is in use by {holder} on {address}; stop that or choose "
        "another port"
    )


def _decoded(address: str) -> str:
    """Return an address of /proc/net/tcp, which has the bytes of each 32 bits reversed."""
    words = (bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
    return str(ipaddress.ip_address(b"".join(words)))


def _takes(taken: str, wanted: str) -> bool:
    """Return True if no other socket can have a port of `wanted` that one has of `taken`."""
    one, other = (_unmapped(text) for text in (taken, wanted))
    # What listens on :: has the port in IPv4 too, unless it asked not to.
    return (
        one == other
        or (one.is_unspecified and one.version >= other.version)
        or (other.is_unspecified and one.version == other.version)
    )


def _unmapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


_RULES: Final[tuple[Rule, ...]] = (
    _environment,
    _processors,
    _api_replicas,
    _memory,
    _open_files,
    _disk,
    _address,
    _ports,
)


def _judge(rule: Rule, values: Values, host: Host) -> tuple[str, ...]:
    try:
        return tuple(rule(values, host))
    except UnavailableError:
        return ()
